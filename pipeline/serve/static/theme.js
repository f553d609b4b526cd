// Light, dark, or as the system has it; the choice is remembered.

export function theme(button, next) {
  const order = ["auto", "light", "dark"];
  const now = localStorage.getItem("sightline-theme") ?? "auto";
  const chosen = next ? order[(order.indexOf(now) + 1) % 3] : now;
  localStorage.setItem("sightline-theme", chosen);
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  const words = { auto: ["Auto", "as the system has them"], light: ["Light", "light"], dark: ["Dark", "dark"] }[chosen];
  button.textContent = words[0];
  button.setAttribute("aria-label", `${words[0]}: colours ${words[1]}`);
}
