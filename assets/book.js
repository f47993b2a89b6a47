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

// Boxes that scroll sideways fade out on the side where there is more, and the Tab key reaches them.
function markMore(box) {
  const more = box.scrollWidth - box.clientWidth;
  box.classList.toggle("more-left", box.scrollLeft > 4);
  box.classList.toggle("more-right", more > 4 && box.scrollLeft < more - 4);
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
  part.querySelectorAll(".cell_output .output, .pst-scrollable-table-container, div.highlight pre").forEach(watch);
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
