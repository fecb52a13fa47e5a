// plotly draws the plots. These lines load it after the table is there, and start one plot after the other, so that the
// page shows and reacts in between.

const painted = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));

await new Promise(resolve => addEventListener("load", resolve));
await painted();
const script = document.createElement("script");
script.src = "plotly.min.js";
await new Promise(resolve => {
  script.onload = resolve;
  document.body.append(script);
});

const isTouched = matchMedia("(pointer: coarse)").matches;
for (const plot of document.querySelectorAll(".plot")) {
  await painted();
  await Plotly.newPlot(plot, JSON.parse(plot.nextElementSibling.textContent));
  // A click opens the page of the run. A tap only shows the label of the point.
  if (!isTouched) plot.on("plotly_click", event => location.assign(event.points[0].customdata));
}
