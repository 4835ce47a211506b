const MADE = "<!-- Made from the sources by `npm run docs`. -->";

/** The first part is what the page says of itself. */
export function page(title: string, ...parts: readonly string[]): string {
  return `${lines(`# ${title}`, ...parts.slice(0, 1), MADE, ...parts.slice(1))}\n`;
}

export function lines(...parts: readonly string[]): string {
  return parts.filter(Boolean).join("\n\n");
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `|${cells.map(cell).join("|")}|`;
  return [line(head), `|${"---|".repeat(head.length)}`, ...rows.map(line)].join("\n");
}

function cell(text: string): string {
  const line = text.replaceAll(/\s+/g, " ").trim().replaceAll("|", "\\|");
  return line === "" ? " " : ` ${line} `;
}

export function code(text: string): string {
  return text === "" ? "" : text.includes("`") ? `\`\` ${text} \`\`` : `\`${text}\``;
}
