"""Scenes in the manner of CLEVR (Johnson et al. 2017) and their true factors: what is in them, not how they are drawn.

    1fov      a red cube slides along a straight line                                           1 factor
    simple    one object; shape, colour and position vary                                       4 factors
    complex   two objects, the left one first; each with size, shape, colour and position      10 factors

The ground is the plane z = 0; x points to the right of the picture, y away from the camera. A large cube is one unit
high. Every scene is a function of (variant, seed, index) alone.
"""

import collections

import numpy as np

PALETTE = {  # CLEVR's colours, sRGB
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
SIZES = {"small": 0.35, "large": 0.7}  # radius of a sphere or cylinder, half the diagonal of a cube's face
SHAPES = ["cube", "sphere", "cylinder"]

# kinds: the factors of each object; extent: |x| and |y| go up to it; distance of the camera; jitter of its position
Variant = collections.namedtuple("Variant", "objects extent distance jitter")
VARIANTS = {
    "1fov": Variant(1, 1.25, 7.0, 0.0),
    "simple": Variant(1, 1.5, 9.2, 0.15),
    "complex": Variant(2, 2.0, 11.0, 0.15),
}
ELEVATION = np.radians(28)  # of the camera above the ground
FIELD_OF_VIEW = np.radians(35)
TARGET = (0.0, 0.0, 0.35)  # what the camera looks at
GAP = 0.2  # at least this much ground between two objects

Thing = collections.namedtuple("Thing", "size shape colour x y")
Scene = collections.namedtuple("Scene", "things camera sampler_seed")  # camera: its position [3]


def factor_info(variant):
    """Return the list that NAME-factors.json holds: the factors of `variant`, in the order of the array's columns."""
    reach = VARIANTS[variant].extent
    size = {"name": "size", "kind": "categorical", "values": list(SIZES)}
    shape = {"name": "shape", "kind": "categorical", "values": SHAPES}
    colour = {"name": "colour", "kind": "categorical", "values": list(PALETTE)}
    x, y = [{"name": name, "kind": "continuous", "range": [-reach, reach]} for name in "xy"]
    if variant == "1fov":
        return [dict(x, name="position")]
    if variant == "simple":
        return [shape, colour, x, y]
    each = [size, shape, colour, x, y]
    return [dict(info, name="%s_%s" % (side, info["name"])) for side in ("left", "right") for info in each]


def draw(variant, seed, index):
    """Return (scene, factors): image `index` of the dataset made with `seed`. factors is float32 [F]."""
    kind = VARIANTS[variant]
    random = np.random.RandomState([seed, index])
    sampler_seed = int(random.randint(2**31))
    camera = _camera(kind.distance) + random.uniform(-kind.jitter, kind.jitter, 3)
    if variant == "1fov":
        position = random.uniform(-kind.extent, kind.extent)
        thing = Thing("large", "cube", "red", position, 0.0)
        return Scene([thing], camera, sampler_seed), np.array([position], np.float32)
    if variant == "simple":
        thing = _draw_thing(random, kind.extent)._replace(size="large")
        return Scene([thing], camera, sampler_seed), np.array(_numbers(thing)[1:], np.float32)
    while True:  # uniform over what is allowed
        things = [_draw_thing(random, kind.extent) for _ in range(2)]
        things.sort(key=lambda thing: project(camera, _centre(thing))[0])
        if _apart(camera, *things):
            return Scene(things, camera, sampler_seed), np.array(_numbers(things[0]) + _numbers(things[1]), np.float32)


def _camera(distance):
    return np.array([0.0, -distance * np.cos(ELEVATION), TARGET[2] + distance * np.sin(ELEVATION)])


def _draw_thing(random, extent):
    size = list(SIZES)[random.randint(len(SIZES))]
    shape = SHAPES[random.randint(len(SHAPES))]
    colour = list(PALETTE)[random.randint(len(PALETTE))]
    return Thing(size, shape, colour, random.uniform(-extent, extent), random.uniform(-extent, extent))


def _numbers(thing):
    size, shape, colour = list(SIZES).index(thing.size), SHAPES.index(thing.shape), list(PALETTE).index(thing.colour)
    return [size, shape, colour, thing.x, thing.y]


def _centre(thing):
    return np.array([thing.x, thing.y, SIZES[thing.size]])


def _apart(camera, left, right):
    """Whether two objects leave a gap on the ground, and neither hides more than about a third of the other.

    Without the second condition factors could not be seen, and the left-to-right order would hang on a hair.
    """
    reach = SIZES[left.size] + SIZES[right.size]
    on_ground = np.hypot(left.x - right.x, left.y - right.y)
    on_screen = project(camera, _centre(right))[0] - project(camera, _centre(left))[0]
    nearer = min(np.linalg.norm(_centre(thing) - camera) for thing in (left, right))
    return on_ground >= reach + GAP and on_screen >= 0.8 * reach / (nearer * np.tan(FIELD_OF_VIEW / 2))


def project(camera, points):
    """Return where points of the world [..., 3] are seen: (right, up) [..., 2], each -1 to 1 from edge to edge."""
    forward = np.subtract(TARGET, camera)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    up = np.cross(right, forward)
    rays = np.subtract(points, camera)
    depth = rays @ forward * np.tan(FIELD_OF_VIEW / 2)
    return np.stack([rays @ right / depth, rays @ up / depth], -1)
