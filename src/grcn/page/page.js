// The script of the page: shows `props.value`, which is from grcn.page.app.look, in the way that the controls ask for.
// Names and file names come from outside, so they enter the page as text (textContent), never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const TASKS = { cls: "classification", loc: "localization" };
const part = (selector) => element.querySelector(selector);
const slider = part(".score input");
const best = part(".best input"); // in place of the slider: for each class the score that was chosen on a split

function make(parent, tag, attributes = {}, text = "") {
  const svg = ["svg", "g", "image", "rect"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

// The picture of one detector: the photo, above it the energy of a map, above that a rect for each detection.
function makeView(photo, detector) {
  const figure = make(part(".views"), "figure");
  const caption = make(figure, "figcaption");
  make(caption, "strong", {}, detector.name);
  const preset = detector.preset === detector.name ? "" : detector.preset;
  make(caption, "span", { class: "small" }, ` ${preset} ${detector.seconds.toFixed(2)} s`);
  const size = { width: photo.width, height: photo.height, preserveAspectRatio: "none" };
  const svg = make(figure, "svg", { viewBox: `0 0 ${photo.width} ${photo.height}`, preserveAspectRatio: "xMinYMin" });
  make(svg, "image", { ...size, href: photo.photo });
  const maps = detector.maps.map((map) => {
    return { ...map, image: make(svg, "image", { ...size, href: map.energy, class: "energy" }) };
  });
  const area = (detection) => detection.bbox[2] * detection.bbox[3];
  const group = make(svg, "g", { class: "boxes" });
  const least = ({ category_id }) => (usesBest() && detector.best ? detector.best[category_id - 1] : slider.value);
  const isShown = (detection) => detection.score >= Number(least(detection));
  const boxes = [...detector.detections]
    .sort((a, b) => area(b) - area(a)) // small ones last, so that they are on top and can be pointed at
    .map((detection) => {
      const [x, y, width, height] = detection.bbox;
      const [name, color] = detector.classes[detection.category_id - 1];
      const label = `${name} ${detection.score.toFixed(2)}`;
      const said = { tabindex: 0, role: "img", "aria-label": label };
      const rect = make(group, "rect", { x, y, width, height, stroke: color, ...said });
      const tell = () => showTip(rect, label, color);
      for (const kind of ["pointerenter", "focus"]) rect.addEventListener(kind, tell);
      for (const kind of ["pointerleave", "blur"]) rect.addEventListener(kind, hideTip);
      return { detection, name, color, rect };
    });
  const note = make(figure, "p", { class: "note small" });
  const counts = make(figure, "p", { class: "counts", "aria-live": "polite" });
  const json = make(figure, "button", { type: "button", class: "json" }, "download these boxes (JSON)");
  json.addEventListener("click", () => {
    const shown = boxes.filter(({ detection }) => isShown(detection));
    const results = shown.map(({ detection, name }) => ({ ...detection, category_name: name }));
    results.sort((a, b) => b.score - a.score);
    download(`${photo.name}.${detector.name}.json`, results);
  });
  return { maps, boxes, note, counts, isShown };
}

let views = [];
const usesBest = () => best.checked && !part(".best").hidden;

// Applies the controls, without a request to the server.
function update() {
  const layer = part("input[name=layer]:checked").value;
  part(".score output").value = usesBest() ? "that of each class" : Number(slider.value).toFixed(2);
  hideTip();
  for (const view of views) {
    const counted = new Map();
    for (const { detection, name, color, rect } of view.boxes) {
      const shown = view.isShown(detection);
      rect.style.display = shown ? "" : "none";
      if (shown) counted.set(name, { color, count: (counted.get(name)?.count ?? 0) + 1 });
    }
    view.counts.replaceChildren();
    for (const [name, { color, count }] of counted) {
      const chip = make(view.counts, "span", { class: "chip" }, `${count} ${name}`);
      chip.style.borderColor = color;
    }
    if (!counted.size) make(view.counts, "span", {}, "nothing with this score");
    view.note.textContent = "";
    for (const map of view.maps) {
      const on = map.tasks.includes(layer);
      map.image.style.display = on ? "" : "none";
      const whose = map.tasks.length > 1 ? "the one map of both tasks" : `the map of ${TASKS[layer]}`;
      if (on) view.note.textContent = `${whose}, stride ${map.stride}: mean absolute activation, dark low, bright high`;
    }
    const hidden = layer !== "photo" && !view.maps.length;
    if (hidden) view.note.textContent = "this detector was exported, so its maps cannot be shown";
  }
}

function showTip(rect, label, color) {
  const tip = part(".tip");
  tip.textContent = label;
  tip.style.borderColor = color;
  tip.hidden = false;
  // Above the box, so that it does not hide the box, unless that is outside the screen. In coordinates of the view, so
  // that it scrolls along.
  const [box, view] = [rect, element].map((node) => node.getBoundingClientRect());
  tip.style.left = `${Math.max(0, Math.min(box.left - view.left, view.width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(box.top - tip.offsetHeight - 4, 0) - view.top}px`;
}

function hideTip() {
  part(".tip").hidden = true;
}

function download(name, content) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  const link = make(document.body, "a", { href: url, download: name });
  link.click();
  link.remove();
  URL.revokeObjectURL(url);
}

function show() {
  const value = props.value;
  const problem = part(".problem");
  problem.hidden = !value?.error;
  problem.textContent = value?.error ?? "";
  part(".controls").hidden = !value?.detectors;
  part(".views").replaceChildren();
  views = (value?.detectors ?? []).map((detector) => makeView(value, detector));
  part(".layers").hidden = !views.some((view) => view.maps.length);
  part(".best").hidden = !value?.detectors?.every((detector) => detector.best);
  slider.min = Math.max(0, ...(value?.detectors ?? []).map((detector) => detector.least)); // no score is lower
  update();
}

slider.addEventListener("input", () => {
  best.checked = false;
  update();
});
best.addEventListener("change", update);
part(".layers").addEventListener("change", update);
watch("value", show);
element.style.position = "relative"; // the origin for the position of the tip

// Hide an upload that the browser cannot show, such as a TIFF or a file that is not a picture.
for (const [event, visibility] of [["error", "hidden"], ["load", ""]]) {
  const set = ({ target }) => target instanceof HTMLImageElement && (target.style.visibility = visibility);
  document.addEventListener(event, set, true);
}
