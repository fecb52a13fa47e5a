// plotly draws the plots. This script loads it after the table, and draws one plot after the other. In between, the
// browser can update the page and react to the user.

const painted = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));

await new Promise(resolve => addEventListener("load", resolve));
await painted();
const script = document.createElement("script");
script.src = "plotly.min.js";
await new Promise(resolve => {
  script.onload = resolve;
  document.body.append(script);
});

const isTouchScreen = matchMedia("(pointer: coarse)").matches;
for (const plot of document.querySelectorAll(".plot")) {
  await painted();
  await Plotly.newPlot(plot, JSON.parse(plot.nextElementSibling.textContent));
  // A click opens the page of the run. A tap only shows the label of the point.
  if (!isTouchScreen) plot.on("plotly_click", event => location.assign(event.points[0].customdata));
}
