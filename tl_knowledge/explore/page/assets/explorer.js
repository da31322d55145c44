// What the page does by itself: its own name, the beat by which it asks for news, marks on tokens, copying, and saying so when nobody answers.
(() => {
  const BUSY = 400, CALM = 2000, PATIENCE = 1000;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const asked = new Map();  // requests without an answer yet, and since when
  let beats = 0, asking = false, lastBeat = 0, silentSince = null, trouble = "", troubled = "";
  const model = document.querySelector("meta[name=X-Explorer-Model]").content;

  window.explorer = {tab: crypto.randomUUID(), every: CALM};

  const set = (id, props) => window.dash_clientside && dash_clientside.set_props && dash_clientside.set_props(id, props);

  const fetched = window.fetch.bind(window);
  window.fetch = async (address, options) => {
    if (!String(address).includes("_dash-update-component")) return fetched(address, options);
    const beat = Boolean(options && typeof options.body === "string" && options.body.includes('"beat.data"'));
    const key = Symbol();
    asked.set(key, performance.now());
    if (beat) asking = true;
    try {
      const headers = new Headers(options && options.headers);
      headers.set("X-Explorer-Model", model);
      const answer = await fetched(address, {...options, headers});
      silentSince = null;
      if (answer.status === 409) trouble = "Another model answers here now. Load this page again; what it shows is of the one before.";
      else if (answer.ok && (!beat || troubled === "beat") && !replaced()) trouble = troubled = "";
      else if (!answer.ok && !replaced()) {
        troubled = beat ? "beat" : "control";
        trouble = `The server could not answer (${answer.status}); its terminal says why. Try once more, or load the page again.`;
      }
      return answer;
    } catch (error) {
      silentSince = silentSince || performance.now();
      throw error;
    } finally {
      asked.delete(key);
      if (beat) { asking = false; lastBeat = performance.now(); }
    }
  };

  const replaced = () => trouble.startsWith("Another model");
  const seconds = since => Math.round((performance.now() - since) / 1000);

  setInterval(() => {
    const silence = document.getElementById("silence"), waiting = document.getElementById("waiting");
    document.documentElement.classList.toggle("no-answer", silentSince !== null || replaced());
    document.documentElement.classList.toggle("trouble", trouble !== "");
    const words = trouble || (silentSince !== null ? `No answer from the server for ${seconds(silentSince)} s, trying again.` : "");
    if (silence && silence.textContent !== words) silence.textContent = words;
    const oldest = Math.min(...asked.values());
    if (waiting) waiting.textContent = performance.now() - oldest > PATIENCE && silentSince === null ? ` waiting for an answer, ${seconds(oldest)} s` : "";
    const due = silentSince !== null ? 1000 : explorer.every === BUSY ? BUSY : CALM;
    if (waiting && !asking && !replaced() && performance.now() - lastBeat >= due) {
      lastBeat = performance.now();
      set("beat", {data: {number: ++beats, dark: dark.matches}});
    }
  }, 100);
  window.addEventListener("pagehide", () => {
    fetched("leave", {method: "POST", body: explorer.tab, keepalive: true, headers: {"X-Explorer-Model": model}}).catch(() => {});
  });
  dark.addEventListener("change", () => { lastBeat = 0; });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.explorer = {
    name: () => explorer.tab,
    pace: pending => {
      explorer.every = pending ? BUSY : CALM;
      if (explorer.every === BUSY) lastBeat = Math.min(lastBeat, performance.now() - BUSY + 50);
      return "";
    },
  };

  // Marks: click one token, shift-click or drag for several; with the keyboard Enter, Shift+Enter, and the arrow keys.
  let anchor = null, pressed = null;
  const tokenAt = place => place && place.closest && place.closest("#tokens:not(.stale) button");
  const at = token => Number(token.dataset.pos);
  const aim = (from, to) => document.querySelectorAll("#tokens button").forEach(token => {
    const inside = from !== null && at(token) >= Math.min(from, to) && at(token) <= Math.max(from, to);
    token.classList.toggle("aimed", inside);
  });
  const mark = (from, to) => set("marked", {data: {start: Math.min(from, to), stop: Math.max(from, to) + 1, of: document.querySelector("#tokens button").dataset.of, at: Date.now()}});

  document.addEventListener("pointerdown", event => {
    const token = tokenAt(event.target);
    if (!token || event.button !== 0) return;
    if (event.shiftKey && anchor !== null) { mark(anchor, at(token)); event.preventDefault(); return; }
    pressed = at(token);
    aim(pressed, pressed);
  });
  document.addEventListener("pointermove", event => {
    const token = pressed === null ? null : tokenAt(document.elementFromPoint(event.clientX, event.clientY));
    if (token) aim(pressed, at(token));
  });
  document.addEventListener("pointerup", event => {
    if (pressed === null) return;
    const token = tokenAt(document.elementFromPoint(event.clientX, event.clientY));
    if (token) { mark(pressed, at(token)); anchor = pressed; }
    pressed = null;
    aim(null, null);
  });
  document.addEventListener("pointercancel", () => { pressed = null; aim(null, null); });
  document.addEventListener("keydown", event => {
    const token = tokenAt(event.target);
    if (token && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      if (event.shiftKey && anchor !== null) mark(anchor, at(token)); else { anchor = at(token); mark(anchor, anchor); }
    } else if (token && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const next = event.key === "ArrowRight" ? token.nextElementSibling : token.previousElementSibling;
      if (next) { next.focus(); event.preventDefault(); }
    } else if (event.key === "Enter" && !event.shiftKey && event.target.id === "prompt") {
      event.preventDefault();
      document.getElementById("read").click();
    }
  });

  const copy = async (button, text) => {
    const label = button.textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch (error) { button.textContent = "The browser does not let this page copy; select the text instead"; }
    setTimeout(() => { button.textContent = label; }, 1500);
  };
  document.addEventListener("click", event => {
    const button = event.target.closest && event.target.closest("button[data-copies]");
    if (!button) return;
    const from = button.dataset.copies;
    copy(button, from === "address" ? location.href : document.getElementById(from).textContent);
  });
})();
