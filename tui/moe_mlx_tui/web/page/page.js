"use strict";
/* What textual-serve's terminal (textual.js) does not do: a name for this tab, so that a reload finds its conversation;
   the font before the first measure; the touch bar; swipes; downloads in place; the reason why a connection ended. */

const LONGEST = 250000; // bytes of one message; the server ends a connection that sends more
const LINES_A_STEP = 2; // lines that the app scrolls by for one turn of a wheel
const LOST = 1006; // a connection that ended without a word

function tabName() {
  const fresh = () =>
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    const name = sessionStorage.getItem("tab") || fresh();
    sessionStorage.setItem("tab", name);
    return name;
  } catch {
    return fresh(); // storage is switched off: a reload starts over
  }
}

const page = { socket: null, began: false, over: null, rows: 24 };
const find = (id) => document.getElementById(id);

function remark(text) {
  find("remark").textContent = text;
  setTimeout(() => (find("remark").textContent = ""), 6000);
}

function focusTerminal() {
  document.querySelector(".xterm-helper-textarea")?.focus({ preventScroll: true });
}

function ended(event) {
  page.over = event.code;
  const unsaid = event.code === LOST ? "The connection to the server was lost." : "The app has ended.";
  find("why").textContent = event.reason || unsaid;
  find("closed").classList.add("-shown");
  find("again").focus();
}

// textual.js keeps its socket to itself.
const PlainSocket = WebSocket;
window.WebSocket = class extends PlainSocket {
  constructor(...where) {
    super(...where);
    page.socket = this;
    this.addEventListener("close", ended);
    this.addEventListener("message", (event) => {
      if (!page.began && typeof event.data !== "string") {
        page.began = true;
        focusTerminal();
      }
    });
  }
  send(data) {
    if (this.readyState !== PlainSocket.OPEN) return;
    if (data.startsWith('["resize"')) page.rows = JSON.parse(data)[1].height;
    if (new TextEncoder().encode(data).length > LONGEST) remark("That is too much for one paste: give it in parts.");
    else super.send(data);
  }
};

// A download is saved where it is asked for, without a window that a blocker would stop.
const open = window.open.bind(window);
window.open = (url, ...how) => {
  if (!new URL(url, location.href).href.startsWith(`${location.origin}/download/`)) return open(url, "_blank", "noopener");
  const link = document.createElement("a");
  link.href = url;
  link.download = "";
  link.click();
  return null;
};

function touchBar() {
  for (const button of document.querySelectorAll("[data-touch]")) {
    button.addEventListener("pointerdown", (event) => event.preventDefault()); // the keyboard stays as it is
    button.addEventListener("click", () => page.socket?.send(JSON.stringify(["touch", button.dataset.touch])));
  }
  find("again").addEventListener("click", () => location.reload());
}

function swipes(terminal) {
  let from = null;
  terminal.addEventListener("touchstart", (event) => (from = event.touches.length === 1 ? event.touches[0].clientY : null));
  terminal.addEventListener(
    "touchmove",
    (event) => {
      if (from === null) return;
      event.preventDefault();
      const { clientX, clientY } = event.touches[0];
      const rows = terminal.querySelector(".xterm-rows, .xterm-screen");
      const step = (LINES_A_STEP * (rows?.clientHeight || 400)) / page.rows;
      for (; Math.abs(clientY - from) >= step; from += Math.sign(clientY - from) * step) {
        const way = { deltaY: Math.sign(from - clientY), deltaMode: WheelEvent.DOM_DELTA_LINE };
        rows?.dispatchEvent(new WheelEvent("wheel", { ...way, clientX, clientY, bubbles: true, cancelable: true }));
      }
    },
    { passive: false },
  );
}

function keepInView() {
  const view = window.visualViewport;
  const fit = () => {
    document.body.style.setProperty("--height", `${view.height}px`);
    window.scrollTo(0, 0);
    window.onresize?.();
  };
  view?.addEventListener("resize", fit);
  // A tablet that slept has lost its connection: it comes back with the conversation.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && page.over === LOST) location.reload();
  });
}

const begin = window.onload; // textual.js's
window.onload = async (event) => {
  const terminal = find("terminal");
  const asked = Number(new URLSearchParams(location.search).get("fontsize"));
  const size = asked >= 8 && asked <= 40 ? asked : innerWidth < 600 ? 13 : 16;
  terminal.dataset.fontSize = String(size);
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  terminal.dataset.sessionWebsocketUrl = `${scheme}//${location.host}/ws/${tabName()}`;
  touchBar();
  swipes(terminal);
  keepInView();
  const fonts = ["", "bold ", "italic "].map((kind) => document.fonts.load(`${kind}${size}px "Roboto Mono"`));
  await Promise.allSettled(fonts);
  begin.call(window, event);
};
