"use strict";
// The page of a server: made from what its models say of themselves, whatever they make. No model is known here.

const $ = (id) => document.getElementById(id);
const state = { models: [], model: null, running: null, urls: [], body: null };

// What is asked of the server --------------------------------------------------------------------------------------

function headers(more = {}) {
  const token = $("token").value.trim();
  return token ? { authorization: `Bearer ${token}`, ...more } : more;
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (response.ok) return response;
  let detail = `The server answered ${response.status}.`;
  try { detail = (await response.json()).detail || detail; } catch { /* no document: the status must do */ }
  const error = new Error(detail);
  error.status = response.status;
  error.wait = Number(response.headers.get("retry-after")) || 0;
  throw error;
}

function post(body, signal) {
  return ask("v1/generate", {
    method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json" },
  });
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) => (lines.find((line) => line.startsWith(name + ": ")) || "").slice(name.length + 2);
      if (field("event")) yield { event: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

// The form ---------------------------------------------------------------------------------------------------------

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

async function chooseModel() {
  const id = $("model").value;
  say(`Opening ${id} ...`);
  const model = await (await ask("v1/models/" + id.split("/").map(encodeURIComponent).join("/"))).json();
  state.model = model;
  $("grid").replaceChildren();
  $("actions").hidden = $("code").hidden = true;
  const items = model.items ? `, ${model.items.toLocaleString("en")} items seen` : "";
  $("about").textContent = `${model.title}: preset ${model.preset || "unknown"}${items}`;
  $("best-of-row").hidden = !model.best_of;
  $("best-of").value = 1;
  $("best-of").max = model.limits.max_candidates;
  for (const id of ["count", "count-slider"]) $(id).max = Math.min(64, model.limits.max_samples);
  $("condition").hidden = !(model.labels.length || model.text || model.condition_formats.length);
  $("label-row").hidden = !model.labels.length;
  options($("label"), [["", "each in turn"], ...model.labels.map((label) => [label, label])]);
  $("text-row").hidden = !model.text;
  $("file-row").hidden = !model.condition_formats.length;
  $("file").accept = model.condition_formats.map((format) => "." + format).join(",");
  $("text").value = $("file").value = "";
  options($("format"), model.formats.map((format) => [format, format]));
  makeFields(model.controls);
}

function makeFields(schema) {
  const fields = [], parts = [];
  for (const [name, property] of Object.entries(schema.properties || {})) {
    const kind = plain(property, schema);
    if (name.endsWith("_seed")) {
      const part = name.slice(0, -"_seed".length);
      if (Object.keys(state.model.noise).some((own) => own.split(".")[0] === part)) parts.push(partField(name));
    }
    else fields.push(controlField(name, property, kind));
  }
  $("parts").replaceChildren(...parts);
  $("fields").replaceChildren(...fields);
  $("noise").hidden = !parts.length;
  $("controls").hidden = !fields.length;
}

function plain(property, schema) {
  // The schema of a value that is given; null means that it is left out.
  if (property.$ref) return plain(schema.$defs[property.$ref.split("/").pop()], schema);
  const choices = (property.anyOf || []).filter((choice) => choice.type !== "null");
  return choices.length ? plain(choices[0], schema) : property;
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && name !== "list") node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function controlField(name, property, kind) {
  const id = "control-" + name, standard = property.default;
  const label = element("label", { htmlFor: id }, name.replaceAll("_", " "));
  const help = element("small", {}, property.description || "");
  let input;
  if (kind.enum) {
    input = element("select", { id });
    options(input, [["", "as usual"], ...kind.enum.map((value) => [String(value), String(value)])]);
  } else if (kind.type === "boolean") {
    input = element("input", { id, type: "checkbox", checked: Boolean(standard) });
  } else if (kind.type === "number" || kind.type === "integer") {
    input = element("input", { id, type: "number", step: kind.type === "integer" ? "1" : "any" });
    const low = kind.minimum ?? kind.exclusiveMinimum, high = kind.maximum ?? kind.exclusiveMaximum;
    if (low !== undefined) input.min = low;
    if (high !== undefined) input.max = high;
    input.placeholder = standard === null || standard === undefined ? "as usual" : String(standard);
    if (low !== undefined && high !== undefined) {
      const step = kind.type === "integer" ? 1 : (high - low) / 100;
      const first = kind.exclusiveMinimum === undefined ? low : low + step;
      const slider = element("input", {
        type: "range", min: first, max: high, step, value: standard ?? (low + high) / 2, className: "unset",
        "aria-label": `${name}, as a slider`,
      });
      slider.addEventListener("input", () => {
        input.value = String(Number(Number(slider.value).toPrecision(6)));
        slider.classList.remove("unset");
      });
      input.addEventListener("input", () => {
        slider.classList.toggle("unset", input.value === "");
        if (input.value !== "") slider.value = input.value;
      });
      input.dataset.name = name;
      input.dataset.kind = kind.type;
      return element("div", { className: "field" }, label, input, slider, help);
    }
  } else {
    input = element("input", { id, type: "text", placeholder: "as usual" });
  }
  input.dataset.name = name;
  input.dataset.kind = kind.type || "string";
  return element("div", { className: "field" }, label, input, help);
}

function partField(name) {
  const part = name.replace(/_seed$/, "").replaceAll("_", " ");
  const number = element("input", {
    type: "number", min: 0, step: 1, value: 0, id: "part-" + name, disabled: true, "aria-label": `Seed of ${part}`,
  });
  const box = element("input", { type: "checkbox", id: "hold-" + name });
  box.addEventListener("change", () => {
    number.disabled = !box.checked;
    if (box.checked) number.value = $("seed").value;
  });
  number.dataset.part = name;
  return element("div", { className: "field" }, element("label", { className: "check" }, box, part), number);
}

function controlValues() {
  const values = {};
  for (const input of document.querySelectorAll("[data-name]")) {
    const { name, kind } = input.dataset;
    if (kind === "boolean") {
      if (input.checked !== Boolean(state.model.controls.properties[name].default)) values[name] = input.checked;
    } else if (input.value !== "") {
      values[name] = kind === "number" || kind === "integer" ? Number(input.value) : input.value;
    }
  }
  for (const input of document.querySelectorAll("[data-part]")) {
    if (!input.disabled && input.value !== "") values[input.dataset.part] = Number(input.value);
  }
  return values;
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

async function requestBody() {
  const body = { model: state.model.id, seed: Number($("seed").value) || 0 };
  if ($("walking").checked) {
    const ends = [Number($("walk-start").value) || 0, Number($("walk-end").value) || 0];
    if ($("whole-walk").checked) Object.assign(body, { interpolate: ends, steps: Math.max(1, Number($("count").value) - 1) });
    else body.points = [[...ends, Number($("share").value)]];
  } else {
    Object.assign(body, { n: Number($("count").value) || 1, start: Number($("start").value) || 0 });
    if (Number($("best-of").value) > 1) body.best_of = Number($("best-of").value);
  }
  if (!$("label-row").hidden && $("label").value) body.label = $("label").value;
  if (!$("text-row").hidden && $("text").value) body.label = $("text").value;
  const file = $("file").files[0];
  if (!$("file-row").hidden && file) {
    body.condition = { format: file.name.split(".").pop().toLowerCase(), data: await base64(file) };
  }
  const controls = controlValues();
  if (Object.keys(controls).length) body.controls = controls;
  if ($("format").value !== state.model.formats[0]) body.format = $("format").value;
  return body;
}

// The samples ------------------------------------------------------------------------------------------------------

function say(text) { $("status").textContent = text; }

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function place(row) {
  if (row.index !== undefined) return `sample ${row.index}`;
  return `${Math.round(100 * row.share)} % of the way from sample ${row.start} to ${row.end}`;
}

function figure(row) {
  const bytes = Uint8Array.from(atob(row.data), (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: row.media_type }));
  state.urls.push(url);
  const title = `${place(row)} of seed ${row.seed}`, name = `${state.model.id.split("/").pop()}-${row.seed}-${row.file}`;
  const link = element("a", { href: url, download: name, "aria-label": `Save ${title}` }, "Save");
  const short = row.index === undefined ? `${row.start} → ${row.end}: ${Math.round(100 * row.share)} %` : place(row);
  const caption = element("figcaption", {}, short + (row.label ? `, ${row.label}` : ""), link);
  return element("figure", {}, shown(row, url, bytes.length, `${state.model.title}: ${title}`), caption);
}

function shown(row, url, size, alt) {
  // Elements that play a medium have the name of its type; a browser shows what else it knows as a still.
  if (row.text !== undefined) return element("pre", {}, row.text);
  const node = document.createElement(row.media_type.split("/")[0].replace(/[^a-z]/g, "") || "object");
  if (node instanceof HTMLMediaElement) {
    $("grid").classList.add("wide");
    const moves = "playsInline" in node, calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    Object.assign(node, { src: url, controls: true, loop: moves, muted: moves, playsInline: true, autoplay: moves && !calm });
    node.setAttribute("aria-label", alt);
    return node;
  }
  const still = element("img", { src: url, alt });
  still.addEventListener("error", () => still.replaceWith(element("pre", {}, `${size.toLocaleString("en")} bytes`)));
  return still;
}

async function draw() {
  if (!state.model) return;
  if (state.running) state.running.abort();
  const running = state.running = new AbortController();
  complain("");
  try {
    const body = state.body = await requestBody();
    if (state.model.needs_condition && body.label === undefined && !body.condition) {
      state.running = null;
      say("This model needs a condition: give it one.");
      return;
    }
    showCode(body);
    say("Drawing ...");
    const start = performance.now(), figures = [];
    const response = await post({ ...body, answer: "events" }, running.signal);
    const old = state.urls;
    state.urls = [];
    for await (const { event, data } of events(response)) {
      if (running !== state.running) return;
      if (event === "error") throw new Error(data.detail);
      if (event !== "sample") continue;
      if (!figures.length) {
        $("grid").className = state.model.is_text ? "lines" : body.points || body.n === 1 ? "one" : "";
        $("grid").replaceChildren();
      }
      figures.push(figure(data));
      $("grid").append(figures[figures.length - 1]);
    }
    old.forEach((url) => URL.revokeObjectURL(url));
    $("actions").hidden = $("code").hidden = false;
    const count = `${figures.length} ${figures.length === 1 ? "sample" : "samples"}`;
    say(`${count} of seed ${body.seed} in ${Math.round(performance.now() - start)} ms`);
    state.running = null;
  } catch (error) {
    if (error.name === "AbortError" || running !== state.running) return;
    state.running = null;
    say("");
    if (error.status === 401) $("door").open = true;
    complain(error.message);
    if (error.wait && error.wait <= 30) {
      say(`Trying again in ${error.wait} s ...`);
      setTimeout(() => { if (!state.running) draw(); }, 1000 * error.wait);
    }
  }
}

// The same elsewhere -----------------------------------------------------------------------------------------------

function python(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, part]) => `${JSON.stringify(key)}: ${python(part)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

function showCode(body) {
  const origin = location.href.replace(/[#?].*$/, "").replace(/\/$/, ""), { condition, ...rest } = body;
  const token = $("token").value ? ' -H "Authorization: Bearer $GENKIT_TOKEN"' : "";
  const file = $("file").files[0] ? $("file").files[0].name : "";
  const quoted = JSON.stringify({ ...rest, answer: "zip" }).replaceAll("'", "'\\''");
  const data = condition
    ? ` -F 'request=${quoted}' -F 'condition=@${file.replaceAll("'", "'\\''")}'`
    : ` -H 'Content-Type: application/json' -d '${quoted}'`;
  $("curl").textContent = `curl -o samples.zip${token}${data} ${origin}/v1/generate`;
  const { model, n, points, interpolate, steps, ...more } = rest;
  const named = Object.entries({ ...more, ...(file && condition ? { condition: file } : {}) })
    .filter(([name, value]) => !(name === "start" && !value))
    .map(([name, value]) => `, ${name}=${python(value)}`).join("");
  let call = `client.generate(${python(model)}, ${n}${named})`;
  if (interpolate) call = `client.interpolate(${python(model)}, ${python(interpolate)}, steps=${steps}${named})`;
  if (points) call = `client.samples(${python(rest)})`;
  $("python").textContent = `import genkit\n\nclient = genkit.Client(${python(origin)})\nsamples = ${call}\nsamples.save("samples/")`;
}

async function copy(button) {
  const text = $(button.dataset.copy).textContent, title = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($(button.dataset.copy));
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => { button.textContent = title; }, 2000);
}

async function download() {
  try {
    say("Making the archive ...");
    const content = await (await post({ ...state.body, answer: "zip" })).blob();
    const url = URL.createObjectURL(content);
    element("a", { href: url, download: `${state.model.id.split("/").pop()}-${state.body.seed}.zip` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    say("The archive is downloaded.");
  } catch (error) { complain(error.message); }
}

// What happens when ------------------------------------------------------------------------------------------------

let timer = 0;
function soon() {
  clearTimeout(timer);
  timer = setTimeout(draw, 120);
}

function pair(number, slider) {
  $(slider).addEventListener("input", () => { $(number).value = $(slider).value; });
  $(number).addEventListener("input", () => { $(slider).value = $(number).value; });
}

async function begin() {
  complain("");
  try {
    const { data } = await (await ask("v1/models")).json();
    state.models = data;
    options($("model"), data.map(({ id, title }) => [id, `${id} (${title})`]));
    await chooseModel();
    await draw();
  } catch (error) {
    say("");
    if (error.status === 401) { $("door").open = true; $("token").focus(); }
    complain(error.message);
  }
}

pair("seed", "seed-slider");
pair("count", "count-slider");
$("token").value = sessionStorage.getItem("token") || "";
$("token").addEventListener("change", () => {
  sessionStorage.setItem("token", $("token").value);
  if (!state.model) begin();
});
$("walking").addEventListener("change", () => { $("walk").hidden = !$("walking").checked; });
$("model").addEventListener("change", async () => {
  try { await chooseModel(); soon(); } catch (error) { say(""); complain(error.message); }
});
if (matchMedia("(max-width: 799px)").matches) $("more").open = false;
$("form").addEventListener("input", (event) => {
  if (!["model", "token"].includes(event.target.id) && $("form").checkValidity()) soon();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.model) draw(); else begin();
});
$("download").addEventListener("click", download);
document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button)));
begin();
