// The arrows that open a section of the side bar have no text: say what they do to who cannot see them.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll("summary")) {
    const section = arrow.closest("li")?.querySelector("a")?.textContent.trim() ?? "this section";
    if (!arrow.textContent.trim()) arrow.setAttribute("aria-label", `Pages of ${section}`);
  }
});
