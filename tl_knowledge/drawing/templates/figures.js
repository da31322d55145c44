// Draws a page's figures: the wide layout where the window has room for it, else the narrow one; in light or dark as the reader's system is.
const nightColours = "NIGHT";
const atNight = (value, colour) => {
  if (typeof value === "string") return colour && Object.hasOwn(nightColours, value) ? nightColours[value] : value;
  if (Array.isArray(value)) return value.map(inner => atNight(inner, colour));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, atNight(inner, key.includes("color"))]));
};
const drawFigure = (place, figure) => {
  const box = document.getElementById(place), night = matchMedia("(prefers-color-scheme: dark)");
  const config = {displayModeBar: false, responsive: false, typesetMath: false};
  let drawn = null;
  const draw = () => {
    const room = Math.floor(box.parentElement.clientWidth), {wide, narrow} = figure.layouts;
    const fits = !narrow || room >= wide.width, state = [fits ? "wide" : room, night.matches].join();
    if (!room || state === drawn) return;
    drawn = state;
    let layout = structuredClone(fits ? wide : narrow.layout);
    let data = structuredClone(fits ? figure.data : narrow.traces.map(({of, set}) => ({...figure.data[of], ...set})));
    layout.width = fits && narrow ? wide.width : room;
    if (night.matches) [data, layout] = [atNight(data, false), {...atNight(layout, false), paper_bgcolor: "PAPER"}];
    box.style.height = layout.height ? `${layout.height}px` : "";
    Plotly.react(box, data, layout, config);
  };
  draw();
  new ResizeObserver(draw).observe(box.parentElement);
  night.addEventListener("change", draw);
};
