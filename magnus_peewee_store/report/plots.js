// plotly draws the plots. These lines start it, one plot after the other, so that the page reacts in between.

const isTouched = matchMedia("(pointer: coarse)").matches;

for (const plot of document.querySelectorAll(".plot")) {
  await new Promise(resolve => setTimeout(resolve));
  await Plotly.newPlot(plot, JSON.parse(plot.nextElementSibling.textContent));
  // A click opens the page of the run. A tap only shows the label of the point.
  if (!isTouched) plot.on("plotly_click", event => location.assign(event.points[0].customdata));
}
