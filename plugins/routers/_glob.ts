/**
 * Does one of them match the whole text? `*` stands for any text, "/" too. No regular expression: what clients send may
 * be long, and one with several stars would search it for ever.
 */
export function matchesAny(patterns: string | readonly string[], text: string | undefined): boolean {
  if (text === undefined) return false;
  return typeof patterns === "string" ? matches(patterns, text) : patterns.some((pattern) => matches(pattern, text));
}

function matches(pattern: string, text: string): boolean {
  const [head = "", ...parts] = pattern.split("*");
  const tail = parts.pop();
  if (tail === undefined) return text === pattern;
  if (!text.startsWith(head) || !text.endsWith(tail)) return false;
  let at = head.length;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= text.length - tail.length;
}
