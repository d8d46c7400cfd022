"""The page of the live explorer, made with Gradio: it shows what biggan.exploring computes, and knows nothing else.

The picture is a function of what stands on the page, so nothing is kept on the server: every tab has its own state.
"""

import base64
import html
import itertools
import json
import logging
import traceback

import fastapi
import gradio as gr
import uvicorn

from biggan.directions import name_of
from biggan.explorer_guard import Guard
from biggan.exploring import Setting
from experiment_utils.errors import UserError, describe

# Fonts that are there already: a theme's own would be fetched from Google
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Ubuntu", "sans-serif"]
_MONOSPACED = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

_PLAIN = {"js_on_load": None, "apply_default_css": False}  # of gr.HTML

_QUIETLY = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # of events

NOTICE = '<p role="status">${value}</p>'
PICTURE = '<img src="${value.src}" alt="${value.alt}">'

# The sliders: one component for all of them. A range input a direction, and its number, which can be typed over.
SLIDERS = """
<div class="bar"><span class="title"></span><button type="button" class="reset">Reset all</button></div>
<div class="rows"></div>
"""
SLIDERS_JS = """
const rows = element.querySelector(".rows");
const w = [...props.value];
element.querySelector(".title").textContent = props.heading;
const inputs = w.map((value, i) => {
  const row = document.createElement("div");
  row.className = "row";
  row.innerHTML = `<label>${i}</label><input type="range" step="any"><input type="number" step="any">`;
  const [range, number] = row.querySelectorAll("input");
  range.min = number.min = -props.path_size;
  range.max = number.max = props.path_size;
  range.id = `direction-${i}`;
  row.querySelector("label").htmlFor = range.id;
  range.setAttribute("aria-label", `direction ${i}`);
  number.setAttribute("aria-label", `direction ${i}, as a number`);
  range.title = "double click: back to 0";
  rows.append(row);
  return [range, number];
});
const decimals = Math.max(0, 3 - Math.ceil(Math.log10(props.path_size)));
const show = (i) => {
  const [range, number] = inputs[i];
  range.value = w[i];
  range.style.setProperty("--at", `${50 + (50 * w[i]) / props.path_size}%`);
  range.classList.toggle("moved", w[i] !== 0);
  if (document.activeElement !== number) number.value = Number(w[i].toFixed(decimals));
};
const move = (i, value) => {
  w[i] = Math.min(Math.max(value, -props.path_size), props.path_size);
  show(i);
  tell();
};
const tell = () => {
  props.value = [...w];
  trigger("input");
};
inputs.forEach(([range, number], i) => {
  range.addEventListener("input", () => move(i, Number(Number(range.value).toFixed(decimals))));
  range.addEventListener("dblclick", () => move(i, 0));
  number.addEventListener("input", () => number.value !== "" && number.validity.valid && move(i, Number(number.value)));
  number.addEventListener("change", () => { number.blur(); show(i); });
  show(i);
});
element.querySelector(".reset").addEventListener("click", () => {
  w.fill(0);
  w.forEach((_, i) => show(i));
  tell();
});
"""

# Typing into the class searches for one: in place of the name that stands there, not behind it
SELECT_JS = '() => document.querySelector("#class input").select()'

# Files reach the browser as values of this component, so that none is left on the server
DOWNLOAD_JS = """
watch("value", () => {
  const {name, type, data} = props.value;
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
"""

CSS = """
.gradio-container { width: 100% !important; max-width: 1440px !important; margin: 0 auto !important;
  overflow: visible !important; }
.gradio-container .main { padding: 24px 28px 32px !important; }
.gradio-container :is(main, .html-container) { padding: 0 !important; }
#heading h1 { font-size: 1.3rem; line-height: 1.3; font-weight: 650; letter-spacing: -0.01em; }
#heading p { color: var(--body-text-color-subdued); font-size: 0.875rem; line-height: 1.5; overflow-wrap: anywhere; }
#explorer { gap: 36px; align-items: flex-start; flex-wrap: nowrap; }
#side { position: sticky; top: 20px; flex: 0 0 min(42%, 540px) !important; gap: 18px; min-width: 0 !important; }
#picture img { display: block; width: min(100%, 100vh - 350px); min-width: min(100%, 280px);
  aspect-ratio: 1; object-fit: contain; border-radius: 12px; background: var(--background-fill-secondary);
  box-shadow: 0 0 0 1px var(--border-color-primary), 0 6px 24px rgb(0 0 0 / 12%); }
#controls { gap: 14px; min-width: 0 !important; }
#sample, #exports { gap: 10px; align-items: flex-end; flex-wrap: nowrap; }
#controls :is(.block, .form) { border-width: 0; box-shadow: none; background: none; padding: 0;
  overflow: visible !important; }
#sample .form { display: grid; grid-template-columns: 1fr 7.5em; gap: 10px; min-width: 0; flex: 1 1 0; }
#sample .form:not(:has(#class)) { grid-template-columns: 1fr; }
#sample .block { min-width: 0 !important; }
#seed input, #class .wrap { height: 40px; }
#notice p { font-size: 0.875rem; line-height: 1.4; overflow-wrap: anywhere; }
#new-sample { flex: none; width: auto; height: 40px; }
#controls button.lg { min-width: 0 !important; font-size: 0.875rem; font-weight: 550; padding: 9px 12px;
  white-space: nowrap; }

#directions { flex: 1 1 0; min-width: 0 !important; }
#directions .bar { position: sticky; top: 0; z-index: 4; display: flex; align-items: center; gap: 12px;
  justify-content: space-between; padding: 16px 0 12px; margin-top: -16px; color: var(--body-text-color);
  background: var(--body-background-fill); }
#directions .title { font-weight: 600; }
#directions .reset { flex: none; font-size: 0.8125rem; color: var(--body-text-color); padding: 5px 14px;
  border: 1px solid var(--border-color-primary); border-radius: 8px; cursor: pointer; }
#directions .reset:hover { background: var(--background-fill-secondary); }
#directions .rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 4px 32px; }
#directions .row { display: grid; grid-template-columns: 1.9em 1fr 4em; align-items: center; gap: 10px; height: 36px;
  font-size: 0.875rem; font-variant-numeric: tabular-nums; }
#directions label { text-align: right; color: var(--body-text-color-subdued); }
#directions input[type="number"] { width: 100%; text-align: right; font: inherit; color: var(--body-text-color-subdued);
  background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 3px 6px; appearance: textfield; }
#directions input[type="number"]::-webkit-inner-spin-button { appearance: none; margin: 0; }
#directions .moved + input { color: var(--body-text-color); }
#directions input[type="number"]:hover { border-color: var(--border-color-primary); }
#directions input[type="number"]:invalid { border-color: var(--error-border-color); }
#directions input[type="range"] { appearance: none; width: 100%; height: 28px; margin: 0; background: transparent;
  cursor: pointer; touch-action: pan-y; --low: min(50%, var(--at)); --high: max(50%, var(--at));
  --track: linear-gradient(to right, transparent var(--low), var(--color-accent) var(--low) var(--high),
    transparent var(--high)), linear-gradient(var(--border-color-primary), var(--border-color-primary)); }
#directions input::-webkit-slider-runnable-track { height: 4px; border-radius: 2px; background: var(--track); }
#directions input::-moz-range-track { height: 4px; border-radius: 2px; background: var(--track); }
#directions input::-webkit-slider-thumb { appearance: none; box-sizing: border-box; width: 16px; height: 16px;
  margin-top: -6px; border-radius: 50%; background: white; border: 2px solid var(--neutral-400); }
#directions input::-moz-range-thumb { box-sizing: border-box; width: 16px; height: 16px; border-radius: 50%;
  background: white; border: 2px solid var(--neutral-400); }
#directions input.moved::-webkit-slider-thumb { border-color: var(--color-accent); }
#directions input.moved::-moz-range-thumb { border-color: var(--color-accent); }
#directions :is(input, button):focus-visible { outline: 2px solid var(--color-accent); outline-offset: 1px; }
#download { display: none; }

@media (max-width: 860px) {
  .gradio-container .main { padding: 14px 16px 28px !important; }
  #explorer { flex-direction: column; align-items: stretch; gap: 18px; }
  #side { display: contents; }
  #picture { position: sticky; top: 0; z-index: 5; padding: 8px 0; background: var(--body-background-fill); }
  #picture img { width: min(100%, 40vh); min-width: 0; margin: 0 auto; }
  #sample { flex-wrap: wrap; }
  #sample .form { display: contents; }
  #class { flex: 1 0 100%; }
  #seed { flex: 1 1 0; }
  #directions { order: 1; flex: none; }
  #controls { order: 2; }
  #directions .bar { position: static; margin-top: 0; padding-top: 0; }
  #directions .row { height: 42px; }
}
"""


def build(explorer, setting):
    """Return gr.Blocks that show an Explorer, beginning with a Setting."""
    with gr.Blocks(title=f"{explorer.G.name}: latent explorer", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_heading(explorer), elem_id="heading", **_PLAIN)
        with gr.Row(elem_id="explorer"):
            with gr.Column(elem_id="side"):
                shown = _picture(explorer, setting)
                picture = gr.HTML(shown, html_template=PICTURE, elem_id="picture", **_PLAIN)
                with gr.Column(elem_id="controls"):
                    controls = _sample_controls(explorer, setting)
                    buttons = _export_buttons()
                    notice = gr.HTML("", html_template=NOTICE, elem_id="notice", **_PLAIN)
            sliders = _sliders(explorer, setting)
        download = gr.HTML(None, html_template="", js_on_load=DOWNLOAD_JS, elem_id="download")
        state = [sliders, *controls.values()]

        def read(values):
            return _setting(explorer, dict(zip(["w", *controls], values)))

        _draw_changes(explorer, read, state, [picture, notice])
        _export_on_click(explorer, read, state, buttons, download, notice)
    return page


def _setting(explorer, values):
    """The Setting that stands on the page: {"w": …, "seed": …} and, where there are such controls, the others."""
    if values["seed"] is None:
        raise UserError("the seed is empty; type a number")
    truncation = values.get("truncation")
    whole = truncation is None or truncation >= explorer.truncation_limit
    return Setting(tuple(values["w"]), int(values["seed"]), values.get("label"), None if whole else truncation)


def _answering(make):
    """Return a function that answers with (make(*values), ""), or leaves things as they are and says what is wrong."""

    def answer(*values):
        try:
            return make(*values), ""
        except UserError as problem:
            return gr.skip(), html.escape(str(problem))
        except Exception as problem:  # a user's generator may raise anything, a GPU may be full
            traceback.print_exc()
            return gr.skip(), html.escape(describe(problem))

    return answer


def _draw_changes(explorer, read, state, outputs):
    gr.on(
        [state[0].input, *(control.change for control in state[1:])],
        _answering(lambda *values: _picture(explorer, read(values))),
        state,
        outputs,
        trigger_mode="always_last",  # of the places that a drag passes while one picture is drawn, only the last counts
        **_QUIETLY,
    )


def _export_on_click(explorer, read, state, buttons, download, notice):
    counter = itertools.count()  # the same file once more is a new value of the component

    def exporter(extension, kind, make):
        def export(*values):
            setting = read(values)
            data = base64.b64encode(make(setting)).decode()
            name = f"{explorer.file_stem(setting)}.{extension}"
            return {"name": name, "type": kind, "data": data, "number": next(counter)}

        return export

    def as_json(setting):
        return (json.dumps(explorer.record(setting), indent=2) + "\n").encode()

    exports = [("png", "image/png", explorer.png), ("gif", "image/gif", explorer.gif)]
    exports.append(("json", "application/json", as_json))
    for button, export in zip(buttons, exports):
        begun = button.click(None, None, notice, js='() => "working …"')
        begun.then(_answering(exporter(*export)), state, [download, notice], **_QUIETLY)


# ----------------------------------------------------------------------------------------------------------------------
# Parts of the page


def _heading(explorer):
    G, found = explorer.G, explorer.origin["directions"]
    where = {"coord": "the axes of z", "coords": "the axes of z", "random": "random ones"}
    source = where.get(found["load_A"]) or name_of(found["load_A"])
    height, width, _ = G.image_shape
    words = [f"{width} × {height} px", f"{G.num_classes} classes" if G.num_classes else "no classes"]
    words += [f"{G.dim_z} components of z", f"{len(explorer.Q)} directions: {source}"]
    return f"<h1>{html.escape(G.name)}</h1><p>{html.escape(' · '.join(words))}</p>"


def _picture(explorer, setting):
    """What the picture's component takes."""
    data = base64.b64encode(explorer.preview(setting)).decode()
    label = "" if setting.label is None else f"{_class_name(explorer, setting.label)}, "
    moved = sum(value != 0 for value in setting.w)
    words = f"{explorer.G.name}: {label}sample {setting.seed}, {moved} of {len(setting.w)} directions moved"
    return {"src": f"data:image/png;base64,{data}", "alt": html.escape(words)}


def _class_name(explorer, number):
    names = explorer.class_names
    return f"class {number}" if names is None else names[number]


def _sample_controls(explorer, setting):
    """{field of Setting: component} of what chooses the sample; those that the generator has a use for."""
    controls = {}
    with gr.Row(elem_id="sample"):
        if explorer.G.num_classes:
            choices = [(_class_choice(explorer, number), number) for number in range(explorer.G.num_classes)]
            controls["label"] = gr.Dropdown(choices, value=setting.label, label="Class", elem_id="class")
            controls["label"].focus(None, js=SELECT_JS)
        controls["seed"] = gr.Number(setting.seed, label="Seed", precision=0, min_width=0, elem_id="seed")
        another = gr.Button("New sample", elem_id="new-sample")
    another.click(None, controls["seed"], controls["seed"], js="(seed) => ((seed ?? -1) + 1) % 2 ** 32")
    limit = explorer.truncation_limit
    if limit is not None:
        at = limit if setting.truncation is None else setting.truncation
        label = f"Truncation of z ({limit:g}: none)"
        slider = gr.Slider(0.01, limit, at, step=0.01, label=label, elem_id="truncation")
        slider.preprocess = lambda value: value  # its own fails without a word on numbers that are half typed
        controls["truncation"] = slider
    return controls


def _class_choice(explorer, number):
    names = explorer.class_names
    return f"{number}" if names is None else f"{number} · {names[number]}"


def _export_buttons():
    with gr.Row(elem_id="exports"):
        return [
            gr.Button(text, elem_id=f"export-{name}")
            for text, name in (("Save PNG", "png"), ("Save GIF", "gif"), ("Save JSON", "json"))
        ]


def _sliders(explorer, setting):
    size = explorer.path_size
    return gr.HTML(
        list(setting.w),
        html_template=SLIDERS,
        **dict(_PLAIN, js_on_load=SLIDERS_JS),
        elem_id="directions",
        path_size=size,
        heading=f"Directions, from −{size:g} to {size:g}",
    )


# ----------------------------------------------------------------------------------------------------------------------
# Serving


def serve(page, listener, names, stop):
    """Answer at a bound socket until SIGINT or SIGTERM, which then take their usual course.

    names   what the server may be called in requests, as for `Guard`
    stop    called then: ends what takes long
    """
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACED)
    theme.set(body_text_color_subdued="*neutral_500")  # the default is too pale to read
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        "/",
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        show_error=True,
        enable_monitoring=False,
    )
    server = _Server(uvicorn.Config(Guard(app, names), log_level="warning", timeout_graceful_shutdown=1))
    server.stop = stop
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says nothing of the pages that are still open when it ends, each of which listens for a sign of life."""

    async def shutdown(self, sockets=None):
        logging.getLogger("uvicorn.error").disabled = True
        self.stop()
        await super().shutdown(sockets)
