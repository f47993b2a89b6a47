// Runs inside a page for browser_check.py: looks at formulas, raw text, pictures, folded parts, width, links.
function inspect(phone) {
  const findings = [];
  const article = document.querySelector("article") || document.querySelector("main") || document.body;
  const start = (text) => text.trim().replace(/\s+/g, " ").slice(0, 70);

  // Formulas: each was drawn once when the book was built (maths.py judges its source), and its glyphs are here.
  const math = [...document.querySelectorAll(".math")];
  for (const element of math) {
    const drawn = element.querySelectorAll("mjx-container").length;
    if (drawn !== 1) findings.push(`formula drawn ${drawn} times instead of once: ${start(element.textContent)}`);
  }
  const containers = document.querySelectorAll("mjx-container").length;
  if (containers !== math.length) findings.push(`${math.length} formulas but ${containers} drawn`);
  if (document.querySelector("mjx-merror")) findings.push("MathJax shows an error");
  const glyphs = new Map([...document.querySelectorAll("mjx-c")].map((glyph) => [glyph.className, glyph]));
  for (const [name, glyph] of glyphs)
    if (getComputedStyle(glyph, "::before").content === "none") findings.push(`glyph that is not drawn: ${name}`);

  // Raw text that was meant to become something else.
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT, {
    acceptNode: (node) =>
      node.parentElement.closest("pre, code, script, style, noscript, textarea, mjx-container, .math, svg")
        ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
  });
  const raw = /\$|\\[a-zA-Z]+|\\[()[\]]|:::|\{[a-z]+(:[a-z]+)?\}`/;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const hit = raw.exec(node.data);
    if (hit) findings.push(`raw source in the text: ${start(node.data.slice(Math.max(0, hit.index - 20)))}`);
  }

  // Pictures: a file has alternative text that is not its name; a drawing in the page has a label.
  for (const image of document.querySelectorAll("img")) {
    const alt = (image.getAttribute("alt") || "").trim();
    if (!alt || /\.(svg|png|jpe?g|gif)$/i.test(alt))
      findings.push(`picture without alternative text: ${image.getAttribute("src").slice(0, 80)}`);
    if (image.complete && !image.naturalWidth) findings.push(`picture does not show: ${image.getAttribute("src").slice(0, 80)}`);
  }
  const labelled = (element) =>
    element.closest("[aria-hidden=true], button, a, summary, [role=img][aria-label], [aria-label]:not(article, main, body)") ||
    element.hasAttribute("aria-labelledby") || element.querySelector(":scope > title");
  for (const drawing of article.querySelectorAll("svg:not(svg svg), canvas, video"))
    if (!labelled(drawing)) findings.push(`drawing without a label: <${drawing.tagName}> ${start(drawing.textContent)}`);

  // Folded parts: a click anywhere on a solution's title opens it, a second one closes it; then all stay open.
  for (const folded of article.querySelectorAll(".admonition.toggle")) {
    const title = folded.querySelector(".admonition-title");
    const hidden = () => folded.classList.contains("toggle-hidden");
    const before = hidden();
    for (const spot of [title.querySelector("a") || title, title, title.querySelector("button") || title]) {
      const was = hidden();
      spot.click();
      if (hidden() === was) findings.push(`a click does not open or close: ${start(title.textContent)}`);
    }
    if (hidden() === before) continue;
    if (hidden()) title.click();
  }
  for (const dropdown of document.querySelectorAll(".admonition.dropdown"))
    if (!dropdown.classList.contains("toggle")) findings.push(`cannot be opened: ${start(dropdown.textContent)}`);
  for (const details of article.querySelectorAll("details")) details.open = true;

  // Width, with everything open.
  const width = document.scrollingElement.scrollWidth;
  if (width > phone) {
    const sticksOut = (e) => e.getBoundingClientRect().right > phone + 1;
    const inScrollBox = (e) => e && e !== document.body &&
      ((getComputedStyle(e).overflowX !== "visible" && !sticksOut(e)) || inScrollBox(e.parentElement));
    const culprits = [...document.body.querySelectorAll("*")].filter((e) => sticksOut(e) && !inScrollBox(e));
    const names = culprits.slice(0, 3).map((e) => `<${e.tagName.toLowerCase()}> ${start(e.textContent)}`);
    findings.push(`page is ${width} px wide on a phone of ${phone} px: ${names.join(", ")}`);
  }
  const boxes = article.querySelectorAll(".math, pre, .pst-scrollable-table-container, figure");
  const wide = [...boxes].filter((box) => box.scrollWidth > box.clientWidth + 2 && box.clientWidth > 0)
    .map((box) => `${box.scrollWidth} px: ${box.tagName.toLowerCase()} ${start(box.textContent)}`);

  // A box that can scroll is a stop of the Tab key; a formula is one only where it is wider than its line.
  const stops = math.flatMap((formula) => [formula, ...formula.querySelectorAll("mjx-container")])
    .filter((box) => /auto|scroll/.test(getComputedStyle(box).overflow) && box.scrollWidth <= box.clientWidth + 1);
  if (stops.length) findings.push(`${stops.length} formulas are stops of the Tab key: ${start(stops[0].textContent)}`);

  // All bytes of the page and of what it asked for; a page from a folder does not say.
  const asked = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const bytes = asked.reduce((sum, entry) => sum + (entry.encodedBodySize || 0), 0);

  return {
    findings, wide, bytes, formulas: math.length,
    links: [...document.querySelectorAll("a[href]")].map((a) =>
      // a link in a drawing has an animated address
      typeof a.href === "string" ? a.href : new URL(a.href.baseVal, document.baseURI).href
    ),
    ids: [...document.querySelectorAll("[id], a[name]")].map((e) => e.id || e.getAttribute("name")),
  };
}
