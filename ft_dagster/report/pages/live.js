// Reads the page again, copies commands, fills what is typed into a command. Nothing that is typed is sent.
const seconds = Number(document.body.dataset.seconds);
const away = document.getElementById("away");
let since = new Date();

const refresh = async () => {
  if (document.hidden || getSelection().toString()) return;
  try {
    const answer = await fetch(location.href);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelectorAll(".live");
    if (!fresh.length) throw new Error(answer.status);
    document.querySelectorAll(".live").forEach((part, number) => part.replaceWith(fresh[number]));
    showCopy();
    since = new Date();
    away.hidden = true;
  } catch {
    away.querySelector("span").textContent = since.toLocaleTimeString();
    away.hidden = false;
  }
};

const showCopy = () => {
  for (const button of document.querySelectorAll("button.copy")) button.hidden = !navigator.clipboard;
};

document.addEventListener("click", async (event) => {
  if (!event.target.matches("button.copy")) return;
  await navigator.clipboard.writeText(event.target.previousElementSibling.textContent);
  event.target.textContent = "Copied";
});

for (const choice of document.querySelectorAll(".filters select")) {
  choice.addEventListener("change", () => choice.form.submit());
}

// One word of a shell. What a terminal takes for a key that is pressed (Ctrl-C, Escape) is written as digits,
// and beside it what an interactive shell reads in double quotes.
const quoted = (text) => {
  const plain = text.replaceAll("\0", "");
  if (!/[\x01-\x09\x0b-\x1f\x7f-\x9f]/.test(plain)) return `'${plain.replaceAll("'", `'\\''`)}'`;
  const octal = (byte) => `\\0${byte.toString(8).padStart(3, "0")}`;
  const digits = (sign) => [...new TextEncoder().encode(sign)].map(octal).join("");
  return `"$(printf %b '${plain.replace(/[\x01-\x1f\x7f-\x9f!'\\]/g, digits)}')"`;
};

for (const question of document.querySelectorAll(".question")) {
  const typed = question.querySelector("textarea");
  const fill = () => {
    const text = typed.value.trim();
    for (const line of question.querySelectorAll("[data-command]")) {
      line.textContent = line.dataset.command.replace("{}", () => (text ? quoted(text) : "'...'"));
    }
  };
  typed.addEventListener("input", fill);
  fill();
}

showCopy();
if (seconds) setInterval(refresh, seconds * 1000);
