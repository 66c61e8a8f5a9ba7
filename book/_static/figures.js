// Draw every stored plotly figure in the colours of the current theme, and redraw its ink when the theme changes.
(() => {
  const ink = () => getComputedStyle(document.body).color;
  const recolour = () => ({ "font.color": ink() });
  const draw = (div) => {
    const figure = JSON.parse(div.querySelector("script").textContent);
    figure.layout.font = { ...figure.layout.font, color: ink() };
    delete figure.layout.width;
    div.textContent = "";
    Plotly.newPlot(div, figure.data, figure.layout, { responsive: true, displaylogo: false })
      .then(() => figure.frames && Plotly.addFrames(div, figure.frames));
  };
  const start = () => {
    document.querySelectorAll(".figure-plotly").forEach(draw);
    new MutationObserver(() =>
      document.querySelectorAll(".figure-plotly").forEach((div) => Plotly.relayout(div, recolour()))
    ).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
})();
