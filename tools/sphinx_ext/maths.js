// Sets formulas in the place of a browser: one request a line in, one answer a line out, both JSON.
//   maths.js FOLDER    FOLDER holds MathJax
// {"tex": ..., "display": ...} is answered by {"html": ...} or {"error": ...}; {"styles": true} by {"css": ...}.
const path = require("path");
const folder = process.argv[2];

const settings = {
  loader: {
    versionWarnings: false, // the adaptor states none
    paths: { mathjax: folder },
    require: (file) => require(path.resolve(folder, file)),
    load: ["input/tex-full", "output/chtml", "adaptors/liteDOM", "a11y/assistive-mml"],
  },
  tex: {
    packages: { "[-]": ["noerrors", "noundefined", "autoload", "require"] },
    formatError: (jax, error) => { throw error; },
  },
  chtml: { fontURL: "fonts" },
};

require(path.join(folder, "node-main.js")).init(settings).then((MathJax) => {
  const adaptor = MathJax.startup.adaptor;
  const answer = ({ tex, display, styles }) => {
    if (styles) return { css: adaptor.textContent(MathJax.chtmlStylesheet()) };
    try {
      const box = MathJax.tex2chtml(tex, { display });
      adaptor.removeAttribute(box, "style"); // its size follows the text around it, by book.css
      return { html: adaptor.outerHTML(box) };
    } catch (error) {
      return { error: error.message };
    }
  };
  require("readline").createInterface({ input: process.stdin })
    .on("line", (line) => process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + "\n"));
}).catch((error) => { console.error(error); process.exit(1); });
