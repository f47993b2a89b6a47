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

// A link to something inside a folded block opens the block.
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest(".toggle-hidden");
  if (!folded) return;
  folded.querySelector(".toggle-button")?.click();
  target.scrollIntoView();
}
window.addEventListener("hashchange", openTarget);
window.addEventListener("load", openTarget);

// Boxes that scroll sideways fade out on the side where there is more.
function markMore(box) {
  box.classList.toggle("more-left", box.scrollLeft > 4);
  box.classList.toggle("more-right", box.scrollLeft + box.clientWidth < box.scrollWidth - 4);
}
const resized = new ResizeObserver((entries) => entries.forEach((entry) => markMore(entry.target)));
// A formula is not to be parted from the punctuation after it.
function keepTogether(formula) {
  const next = formula.nextSibling;
  const mark = next?.nodeType === Node.TEXT_NODE && /^[.,;:!?)\]’”]+/.exec(next.data);
  if (!mark) return;
  const box = document.createElement("span");
  box.className = "keep";
  formula.before(box);
  box.append(formula, mark[0]);
  next.data = next.data.slice(mark[0].length);
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  document.querySelectorAll("span.math").forEach(keepTogether);
  const boxes = "div.math mjx-container, span.math, .cell_output .output, .pst-scrollable-table-container, div.highlight pre";
  for (const box of document.querySelectorAll(boxes)) {
    resized.observe(box);
    box.addEventListener("scroll", () => markMore(box), { passive: true });
  }
});

// From a folder a page may not read other pages, so the search shows titles without excerpts there.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
