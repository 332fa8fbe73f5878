const zoom = document.getElementById("zoom");
const close = () => { zoom.className = ""; zoom.replaceChildren(); };
document.querySelectorAll("figure img").forEach(image => image.addEventListener("click", () => {
  zoom.replaceChildren(image.cloneNode());
  zoom.className = "open";
}));
zoom.addEventListener("click", close);
addEventListener("keydown", event => { if (event.key === "Escape") close(); });
