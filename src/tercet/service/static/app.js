// The page: shows one task at a time, sends what is chosen to the service, and says in plain words what comes back.
"use strict";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const state = { about: null, key: sessionStorage.getItem("tercet-key") || "", boxes: new Map() };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---- the service ----

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, form) {
  for (let attempt = 0; ; attempt += 1) {
    let answer;
    try {
      answer = await fetch(path, {
        method: form ? "POST" : "GET",
        body: form,
        headers: state.key ? { Authorization: `Bearer ${state.key}` } : {},
      });
    } catch {
      throw new Refused(0, "The service cannot be reached. Is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      await askForKey(Boolean(state.key));
      continue;
    }
    const wait = Number(answer.headers.get("Retry-After")) || 0;
    if ((answer.status === 503 || answer.status === 429) && wait > 0 && wait <= 10 && attempt < 5) {
      await new Promise((done) => setTimeout(done, 1000 * wait));
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, told.error || `The service answered ${answer.status}.`);
  }
}

const ask = async (path, form) => (await call(path, form)).json();

function askForKey(wrong) {
  const dialog = $("#key");
  $(".wrong", dialog).textContent = wrong ? "That key is not the right one." : "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      state.key = $("input", dialog).value.trim();
      sessionStorage.setItem("tercet-key", state.key);
      resolve();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
    $("input", dialog).select();
  });
}

// ---- words ----

const SAME = { faces: "the same person", speakers: "the same speaker", signatures: "the same writer" };
const SUBJECT = { faces: "person", speakers: "speaker", signatures: "writer" };

function words() {
  const sound = state.about.kind === "sound";
  const thing = sound ? "recording" : "picture";
  const same = SAME[state.about.task] || "the same thing";
  const person = state.about.task in SUBJECT;
  return {
    thing, things: `${thing}s`, same, person,
    act: sound ? "Record or choose" : "Take or choose",
    compareTitle: person ? `Is it ${same}?` : "Do both show the same?",
    compareLead: `Give two ${thing}s. The computer measures how alike they are and says whether both show ${same}.`,
    identifyTitle: person ? "Who is it?" : "What is it?",
    identifyLead: `Give one ${thing}. The computer looks among all who are known, and says so if it is none of them.`,
    searchLead: `Give one ${thing}. The most similar ones that are known come first, whoever or whatever they show.`,
    peopleTitle: person ? "People" : "What is known",
    peopleLink: person ? "People" : "Known",
    listTitle: person ? "Who is known" : "Known so far",
    enrollTitle: person ? "Add somebody" : "Add something",
    enrollLead: person
      ? `A name and one or more ${thing}s. Ask people before you add them; in many places the law says so.`
      : `A name and one or more ${thing}s of it.`,
  };
}

const FORMS = {
  first: (w) => [`${w.act} the first ${w.thing}`, "or drop it here"],
  second: (w) => [`${w.act} the second ${w.thing}`, "or drop it here"],
  one: (w) => [`${w.act} a ${w.thing}`, "or drop it here"],
  many: (w) => [`${w.act} ${w.things}`, `up to ${state.about.limits.files}; or drop them here`],
};

const megabytes = (bytes) => `${Math.round(bytes / 1e5) / 10} MB`;
const often = (rate) => {
  if (rate <= 0) return "hardly any";
  return rate > 0.1 ? `about ${Math.round(100 * rate)} in 100` : `about 1 in ${Math.round(1 / rate).toLocaleString("en")}`;
};
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// ---- boxes that take files ----

function setUpBox(box) {
  const w = words();
  const many = "many" in box.dataset;
  const [title, hint] = FORMS[box.dataset.label](w);
  const input = make("input", { type: "file", accept: state.about.kind === "sound" ? "audio/*" : "image/*", multiple: many });
  const shown = make("span", { className: "shown" });
  const strong = make("strong", {}, title);
  const small = make("small", {}, hint);
  const pick = make("label", { className: "pick" }, shown, strong, small, input);
  box.classList.toggle("many", many);
  box.replaceChildren(pick);
  const held = { files: [], urls: [] };
  state.boxes.set(box, held);

  const put = (files) => {
    const limit = state.about.limits;
    const chosen = many ? [...files].slice(0, limit.files) : [...files].slice(0, 1);
    const large = chosen.find((file) => file.size > limit.file_bytes);
    if (large) {
      tell(box, `${large.name} is too large: ${megabytes(large.size)}, and ${megabytes(limit.file_bytes)} are allowed.`);
      return;
    }
    if (!chosen.length) return;
    tell(box, "");
    held.urls.forEach((url) => URL.revokeObjectURL(url));
    held.files = chosen;
    held.urls = chosen.map((file) => URL.createObjectURL(file));
    pick.classList.add("full");
    shown.replaceChildren();
    $("audio", box)?.remove();
    if (state.about.kind === "picture") {
      shown.append(...held.urls.map((url, i) => thumbnail(url, `Your ${w.thing}: ${chosen[i].name}`)));
    } else if (chosen.length === 1) {
      box.insertBefore(make("audio", { controls: true, src: held.urls[0], ariaLabel: `Your ${w.thing}` }), pick.nextSibling);
    }
    strong.textContent = chosen.length > 1 ? `${chosen.length} ${w.things}` : chosen[0].name;
    small.textContent = "press to choose another";
  };
  held.clear = () => {
    held.urls.forEach((url) => URL.revokeObjectURL(url));
    Object.assign(held, { files: [], urls: [] });
    setUpBox(box);
  };
  input.addEventListener("change", () => put(input.files));
  pick.addEventListener("dragover", (event) => {
    event.preventDefault();
    pick.classList.add("over");
  });
  pick.addEventListener("dragleave", () => pick.classList.remove("over"));
  pick.addEventListener("drop", (event) => {
    event.preventDefault();
    pick.classList.remove("over");
    put(event.dataTransfer.files);
  });
  if (state.about.kind === "sound" && Recorder.available()) box.append(recordButton(box, put, many, held));
}

function recordButton(box, put, many, held) {
  const button = make("button", { type: "button", className: "plain" }, "Record");
  let stop = null;
  button.addEventListener("click", async () => {
    try {
      if (stop === null) {
        stop = await Recorder.start();
        button.textContent = "Stop recording";
        button.classList.add("on");
      } else {
        const file = await stop();
        stop = null;
        button.textContent = "Record again";
        button.classList.remove("on");
        put(many ? [...held.files, file] : [file]);
      }
    } catch {
      stop = null;
      button.textContent = "Record";
      button.classList.remove("on");
      tell(box, "The microphone cannot be used. Allow it in the browser, or choose a file.");
    }
  });
  return button;
}

function thumbnail(url, alt) {
  const image = make("img", { src: url, alt });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 80));
  image.addEventListener("error", () => image.replaceWith(make("small", {}, "(cannot be shown here)")));
  return image;
}

function tell(within, text, kind = "bad") {
  const answer = $(".answer", within.closest("form"));
  answer.replaceChildren(...(text ? [make("p", { className: `notice ${kind}` }, text)] : []));
}

// ---- answers ----

const ICONS = {
  yes: "M4 12.5 9.5 18 20 6.5",
  no: "M6 6 18 18 M18 6 6 18",
  unsure: "M8.5 9a3.5 3.5 0 1 1 4.6 3.3c-.8.3-1.1.9-1.1 1.7v.6 M12 18.6v.2",
};

function icon(kind) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  for (const [name, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
  for (const [name, value] of [["d", ICONS[kind]], ["fill", "none"], ["stroke", "currentColor"], ["stroke-width", "3"], ["stroke-linecap", "round"]]) {
    path.setAttribute(name, value);
  }
  svg.append(path);
  return svg;
}

function verdict(kind, word, ...more) {
  return make("div", { className: `verdict ${kind}` }, make("p", { className: "word" }, icon(kind), word), ...more);
}

// The threshold stands in the middle; how far a score lies from it is drawn to the distance that there is to 1.
function scale(score, threshold) {
  const dot = make("i");
  const place = 50 + 48 * Math.tanh((2 * (score - threshold)) / Math.max(0.1, 1 - threshold));
  dot.style.left = `${place}%`;
  const label = `Likeness ${score.toFixed(2)}; from ${threshold.toFixed(2)} on it counts as the same.`;
  return make("div", { className: "scale" },
    make("div", { className: "track", role: "img", ariaLabel: label }, dot),
    make("div", { className: "ends", ariaHidden: "true" }, make("span", {}, "different"), make("span", {}, "limit"), make("span", {}, "the same")),
    make("p", {}, label));
}

function ratio(llr, match) {
  if (llr === null || llr === undefined) return [];
  const times = Math.exp(Math.min(Math.abs(llr), Math.log(1e6)));
  const about = times >= 10 ? Math.round(times).toLocaleString("en") : times.toFixed(1);
  const [more, less] = llr > 0 ? ["the same", "different"] : ["different", "the same"];
  const but = match === llr > 0 ? "" : match ? " The limit is a generous one." : " The limit asks for more, so that different ones seldom pass.";
  return [make("p", { className: "fine" }, `So much likeness is about ${about} times as common where both are ${more} as where they are ${less}.${but}`)];
}

const wrong = (text) => make("p", { className: "fine" }, `The computer can be wrong: ${text}`);

function errors(calibration) {
  if (!calibration) return [];
  return [wrong(`of pairs that show different ones, ${often(calibration.achieved_fmr)} would get as far as the limit.`)];
}

// Who is compared with many is taken for one of them more often than in one comparison.
function errorsAmongMany(answer) {
  const rate = answer.runner_up ? answer.runner_up.achieved_fpir : answer.expected_fpir;
  if (rate === null) return [];
  const taken = words().person ? "somebody who is" : "one that is";
  return [wrong(`of those not known, ${often(rate)} would be taken for ${taken}, and the more are known, the more often that happens.`)];
}

function undecided(answer) {
  const reason = answer.score !== null && answer.calibration === null
    ? `The likeness is ${answer.score.toFixed(2)}, but nobody has set yet how much is enough (the command is “tercet calibrate”).`
    : `There is too little to go by: ${answer.reason}.`;
  return verdict("unsure", "Could not decide", make("p", {}, reason));
}

async function compare(form) {
  const w = words();
  const answer = await ask("/v1/verify", form);
  if (answer.decision === "undecided") return [undecided(answer)];
  const match = answer.decision === "match";
  const text = match ? `Both most likely show ${w.same}.` : `They most likely do not show ${w.same}.`;
  return [verdict(match ? "yes" : "no", match ? "Match" : "No match", make("p", {}, text), scale(answer.score, answer.threshold), ...ratio(answer.llr, match), ...errors(answer.calibration))];
}

async function identify(form) {
  form.append("k", "6");
  const w = words();
  const answer = await ask("/v1/identify", form);
  const found = answer.candidates.length ? [make("h2", {}, "Most similar"), hits(answer.candidates)] : [];
  if (answer.decision === "undecided") return [undecided(answer), ...found];
  if (answer.decision === "identified") {
    return [verdict("yes", answer.identity, make("p", {}, `Most likely, among all who are known.`), scale(answer.score, answer.threshold), ...errorsAmongMany(answer)), ...found];
  }
  let why = "Nobody has been added yet.";
  if (answer.score !== null) {
    why = answer.score < answer.threshold
      ? "None is alike enough."
      : "More than one is about as alike, and the computer will not guess between them.";
  }
  return [verdict("no", w.person ? "Nobody who is known" : "Nothing that is known", make("p", {}, why), ...(answer.score === null ? [] : [scale(answer.score, answer.threshold)])), ...found];
}

async function search(form) {
  form.append("k", "12");
  const answer = await ask("/v1/search", form);
  if (!answer.results.length) return [make("p", { className: "notice" }, "Nothing has been added yet.")];
  return [make("h2", {}, `The ${plural(answer.results.length, "most similar one")} of ${answer.gallery.toLocaleString("en")}`), hits(answer.results)];
}

function hits(found) {
  return make("ol", { className: "hits" }, ...found.map((hit, i) => {
    const thumb = make("div", { className: "thumb", ariaHidden: "true" }, [...hit.identity][0].toUpperCase());
    if (state.about.kind === "picture") showPicture(hit, thumb);
    return make("li", {}, thumb, make("p", {}, make("b", {}, hit.identity), make("span", {}, `${i + 1}. likeness ${hit.score.toFixed(2)}`)));
  }));
}

async function showPicture(hit, thumb) {
  try {
    const url = URL.createObjectURL(await (await call(`/v1/picture/${hit.template}`)).blob());
    thumb.removeAttribute("aria-hidden");
    thumb.replaceChildren(thumbnail(url, `Stored picture of ${hit.identity}`));
  } catch (error) {
    if (!(error instanceof Refused)) throw error; // none is stored: the letter stays
  }
}

async function enroll(form) {
  const answer = await ask("/v1/enroll", form);
  state.boxes.get($("#people .box")).clear();
  $("#people form").reset();
  await list();
  const notes = [...answer.refused.map((d) => `Left out: ${d.path || "a file"} (${d.reason}).`), ...answer.warnings.map((d) => `Please look: ${d.path || "a file"} (${d.reason}).`)];
  return [
    make("p", { className: "notice good" }, `Added ${plural(answer.enrolled, words().thing)}.`),
    ...notes.map((note) => make("p", { className: "notice" }, note)),
  ];
}

async function list() {
  const w = words();
  const answer = await ask("/v1/list");
  $("#people .count").textContent = answer.total ? `${answer.total.toLocaleString("en")} ${answer.total === 1 ? "name" : "names"}` : "Nobody yet.";
  $("#people .list").replaceChildren(...answer.identities.map((one) => {
    const until = one.expires ? `, until ${new Date(one.expires).toLocaleDateString()}` : "";
    const button = make("button", { type: "button", className: "plain", ariaLabel: `Remove ${one.identity}` }, "Remove");
    button.addEventListener("click", () => forget(one));
    return make("li", {}, make("div", {}, make("b", {}, one.identity), make("span", {}, `${plural(one.templates, w.thing)}${until}`)), button);
  }));
}

async function forget(one) {
  const dialog = $("#sure");
  $("p", dialog).textContent = `${one.identity} and ${plural(one.templates, words().thing)} will be removed for good.`;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "yes") return;
  const form = new FormData();
  form.append("identity", one.identity);
  const note = $("#people .count");
  try {
    await ask("/v1/forget", form);
    await list();
    note.textContent = `${one.identity} has been removed. ${note.textContent}`;
    note.tabIndex = -1;
    note.focus();
  } catch (error) {
    note.textContent = error.message;
  }
}

// ---- sections ----

const TASKS = { compare, identify, search, people: enroll };

function setUpForm(section) {
  const form = $("form", section);
  const button = $("button.main", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-busy") === "true") return;
    const data = new FormData();
    for (const field of $$("input[name], select[name]", form)) {
      const value = field.type === "checkbox" ? String(field.checked) : field.value.trim();
      if (field.required && !value) {
        tell(button, "A name is missing.");
        field.focus();
        return;
      }
      if (value && !(field.type === "checkbox" && field.closest("[hidden]"))) data.append(field.name, value);
    }
    for (const box of $$(".box", form)) {
      const { files } = state.boxes.get(box);
      if (!files.length) {
        tell(box, `A ${words().thing} is missing.`);
        $("input", box).focus();
        return;
      }
      files.forEach((file) => data.append(box.dataset.box, file, file.name));
    }
    const answer = $(".answer", form);
    button.setAttribute("aria-busy", "true");
    answer.replaceChildren(make("p", {}, "Looking …"));
    try {
      answer.replaceChildren(...await TASKS[section.id](data));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      answer.replaceChildren(make("p", { className: "notice bad" }, sentence(error.message)));
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
}

function sentence(text) {
  const told = text.replace(/^(a|b|file)( \d+)?: /, "");
  return told[0].toUpperCase() + told.slice(1) + (/[.!?]$/.test(told) ? "" : ".");
}

function show(focus) {
  const wanted = location.hash.slice(1);
  const id = wanted in TASKS ? wanted : "compare";
  for (const section of $$("main > section")) section.hidden = section.id !== id;
  for (const link of $$("nav a")) {
    if (link.hash === `#${id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (focus) {
    $(`#${id} h1`).focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  if (id === "people") list().catch((error) => { $("#people .count").textContent = error.message; });
}

async function begin() {
  try {
    state.about = await ask("/v1/about");
  } catch (error) {
    $("#compare .lead").textContent = error.message;
    return;
  }
  const w = words();
  for (const element of $$("[data-text]")) element.textContent = w[element.dataset.text];
  for (const [id, word] of [["identify", w.identifyTitle], ["people", w.peopleLink]]) $(`nav a[href="#${id}"]`).textContent = word;
  for (const element of $$("[data-pictures]")) element.hidden = state.about.kind !== "picture";
  for (const box of $$(".box")) setUpBox(box);
  for (const section of $$("main > section")) setUpForm(section);
  for (const event of ["dragover", "drop"]) window.addEventListener(event, (happened) => happened.preventDefault());
  window.addEventListener("hashchange", () => { if (location.hash.slice(1) in TASKS) show(true); });
  show(false);
  document.documentElement.dataset.ready = "";
}

begin();
