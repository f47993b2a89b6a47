// Folded solutions open by a click anywhere on their title. The toggle button's own handler knows only clicks on the
// bare title and on its button, and throws on a link or a formula inside the title.
document.addEventListener("click", (event) => {
  const title = event.target.closest?.(".admonition.toggle > .admonition-title");
  if (!title || event.target === title || event.target.closest(".toggle-button")) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  event.stopPropagation();
  title.querySelector(".toggle-button").click();
}, true);

// A link to something inside a folded block opens the block. Sections take their height when they come into view, which
// moves what is below them: for some frames the target is brought back to its place, unless the reader moves on.
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const folded = target.closest(".toggle-hidden, details:not([open])");
  if (folded?.matches("details")) folded.open = true;
  folded?.querySelector(".toggle-button")?.click();
  let frames = 30;
  const leave = () => { frames = 0; };
  for (const event of ["wheel", "touchstart", "pointerdown", "keydown"]) {
    addEventListener(event, leave, { once: true, passive: true });
  }
  const place = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0;
  const settle = () => {
    if (frames-- <= 0) return;
    if (Math.abs(target.getBoundingClientRect().top - place) > 2) target.scrollIntoView();
    requestAnimationFrame(settle);
  };
  settle();
}
window.addEventListener("hashchange", openTarget);
window.addEventListener("load", openTarget);

// Boxes that scroll sideways fade out on the side where there is more, and the Tab key reaches them.
function markMore(box) {
  const more = box.scrollWidth - box.clientWidth;
  box.classList.toggle("more-left", box.scrollLeft > 4);
  box.classList.toggle("more-right", more > 4 && box.scrollLeft < more - 4);
  if (more <= 1) box.classList.remove("wide");
  if (more > 4) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}
const resized = new ResizeObserver((entries) => entries.forEach((entry) => markMore(entry.target)));
function watch(box) {
  if (box.dataset.watched) return;
  box.dataset.watched = "yes";
  resized.observe(box);
  box.addEventListener("scroll", () => markMore(box), { passive: true });
}

// Formulas become such boxes where they are wider than their line. First all are measured, then all are marked: each
// change between two measurements would lay the page out anew.
function fit(part) {
  const formulas = [...part.querySelectorAll(".math")];
  const wide = formulas.map((formula) => {
    const line = formula.closest("p, li, dd, td, th, figcaption, h1, h2, h3, h4, div");
    return formula.firstElementChild && formula.querySelector("mjx-math").offsetWidth > line.clientWidth + 1;
  });
  formulas.forEach((formula, i) => {
    formula.classList.toggle("wide", wide[i]);
    if (wide[i]) watch(formula);
  });
  // A line may grow with its formula, as a cell of a table does.
  const needless = formulas.filter((formula, i) => wide[i] && formula.scrollWidth <= formula.clientWidth + 1);
  needless.forEach((formula) => formula.classList.remove("wide"));
  part.querySelectorAll(".cell_output .output:not(.math), .pst-scrollable-table-container, div.highlight pre").forEach(watch);
}

// Sections out of sight are not laid out (book.css), so each part of the page is measured when it comes into sight.
window.addEventListener("load", () => {
  const article = document.querySelector(".bd-article");
  if (!article) return;
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(entry.target);
      fit(entry.target);
    }
  }, { rootMargin: "300px" });
  const look = () => article.querySelectorAll(":scope > section > *").forEach((part) => near.observe(part));
  look();
  // What was folded had no width to measure.
  article.addEventListener("toggle", (event) => fit(event.target), true);
  article.addEventListener("click", (event) => {
    const folded = event.target.closest(".admonition.toggle");
    if (folded) setTimeout(() => fit(folded), 50);
  });
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (width === innerWidth) return;
    width = innerWidth;
    near.disconnect();
    look();
  });
});

// From a folder a page may not read other pages, so the search shows titles without excerpts there.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// ---- previews: what a link leads to, beside it ----

// Of another page the parts come from a script (tools/sphinx_ext/previews.py): from a folder no page may read another.
const SHOWN = ".proof, .math, .citation, .admonition, figure, table, dt";
const LINKS = '.bd-article a.internal[href*="#"]:not(.headerlink)';
const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
const loaded = new Map();
window.preview = (page, parts) => loaded.get(page)?.resolve(parts);

function partsOf(page) {
  if (!loaded.has(page)) {
    const entry = {};
    entry.parts = new Promise((resolve) => { entry.resolve = resolve; });
    loaded.set(page, entry);
    const script = document.createElement("script");
    script.src = new URL(`_static/previews/${page.replace(/html$/, "js")}`, root).href;
    script.onerror = () => entry.resolve({});
    document.head.append(script);
  }
  return loaded.get(page).parts;
}

// The HTML of what a link leads to, or nothing where that is in sight or is a section.
async function partOf(link) {
  const id = decodeURIComponent(link.hash.slice(1));
  if (link.pathname !== location.pathname) {
    const parts = await partsOf(decodeURIComponent(link.pathname.slice(root.pathname.length)));
    return parts[id]?.replaceAll('="@/', `="${root.href}`);
  }
  const target = document.getElementById(id);
  if (!target?.matches(SHOWN)) return "";
  const { top, bottom, height } = target.getBoundingClientRect();
  if (height && top >= 0 && bottom <= innerHeight) return "";
  const copy = target.cloneNode(true);
  copy.classList.remove("toggle-hidden", "wide", "more-left", "more-right");
  copy.querySelectorAll("[id]").forEach((part) => part.removeAttribute("id"));
  copy.querySelectorAll(".headerlink, button").forEach((part) => part.remove());
  copy.removeAttribute("id");
  if (!target.matches("dt")) return copy.outerHTML;
  return `<dl>${copy.outerHTML}${target.nextElementSibling?.outerHTML ?? ""}</dl>`;
}

const box = document.createElement("div");
box.className = "preview";
box.hidden = true;
let current = null;
let timer = 0;

function later(action, wait) {
  clearTimeout(timer);
  timer = setTimeout(action, wait);
}
function hide() {
  clearTimeout(timer);
  current = null;
  box.hidden = true;
}
async function show(link) {
  current = link;
  const part = await partOf(link);
  if (!part || current !== link) return;
  box.innerHTML = part;
  box.hidden = false;
  box.scrollTop = 0;
  const place = link.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - box.offsetWidth - 8);
  const below = place.bottom + box.offsetHeight + 8 < innerHeight || place.top < innerHeight / 2;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = below ? `${place.bottom + 6}px` : "auto";
  box.style.bottom = below ? "auto" : `${innerHeight - place.top + 6}px`;
  box.style.maxHeight = `${Math.min(0.6 * innerHeight, (below ? innerHeight - place.bottom : place.top) - 14)}px`;
}
document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  if (box.contains(event.target)) return clearTimeout(timer);
  const link = event.target.closest?.(LINKS);
  if (link && link !== current) later(() => show(link), 200);
  else if (link) clearTimeout(timer);
  else if (current) later(hide, 250);
  else clearTimeout(timer);
});
document.addEventListener("focusin", (event) => {
  if (event.target.matches(LINKS) && event.target.matches(":focus-visible")) show(event.target);
  else if (!box.contains(event.target)) hide();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
document.addEventListener("click", hide);
addEventListener("scroll", hide, { passive: true });
addEventListener("load", () => document.querySelector(".bd-article")?.append(box));
