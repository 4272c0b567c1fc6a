// Lays the pictures of two releases over each other; one slider moves the seam in all of them. Without this script the
// pictures stand side by side.

const versus = document.getElementById("versus");
const slider = document.getElementById("slider");

if (versus && slider) {
  const move = (percent) => {
    slider.value = percent;
    versus.style.setProperty("--at", `${slider.value}%`);
  };
  versus.classList.add("laid");
  slider.closest("[hidden]").hidden = false;
  slider.addEventListener("input", () => move(slider.value));
  versus.querySelector(".swatches").addEventListener("pointermove", (event) => {
    const picture = event.target.closest("div.pair");
    if (!picture || (event.pointerType !== "mouse" && !event.isPrimary)) return;
    const { left, width } = picture.getBoundingClientRect();
    move(Math.round((100 * (event.clientX - left)) / width));
  });
  move(50);
}
