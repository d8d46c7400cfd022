// A page opened from disk may not start a worker, in which Material for MkDocs searches. There, an invisible frame does
// the same. (The file's name tells Material's offline plugin not to ask a server for such a script.)
if (location.protocol === "file:") {
  const CLOSE = "</" + "script>";

  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = []; // messages that came before the frame had loaded
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inside = frame.contentWindow;
      this.inside.sendToPage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.document.write(
        `<script>
           window.postMessage = (data) => sendToPage(data);
           window.importScripts = (...addresses) => addresses.reduce((before, address) => before.then(() => new Promise((done) => {
             const script = document.createElement("script");
             script.src = address;
             script.onload = done;
             document.head.appendChild(script);
           })), Promise.resolve());
         ${CLOSE}<script src="${address}">${CLOSE}`);
      frame.addEventListener("load", () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
      this.inside.document.close();
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.inside.dispatchEvent(new MessageEvent("message", { data }));
    }

    set onmessage(handler) {
      this.addEventListener("message", handler);
    }
  };
}
