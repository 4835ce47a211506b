/** What stands in the place of a secret. */
export const MASK = "***";

/** Names under which no text is shown. */
const SECRET = /key|secret|token|authorization|password|passphrase|credential|cookie|^auth$/i;
const DEEPEST = 8;

/** Is what has this name one? */
export function isSecret(name: string): boolean {
  return SECRET.test(name);
}

/**
 * A copy that may be shown, of plain JSON: texts under names like `key`, `token` or `password` become `***`, and so do
 * user and password of URLs, their query's secrets and what follows `Bearer`. What is no plain data becomes its name.
 */
export function mask(value: unknown, name = "", depth = 0): unknown {
  if (typeof value === "string") return SECRET.test(name) && value !== "" ? MASK : maskText(value);
  if (value === null || typeof value === "number" || typeof value === "boolean" || value === undefined) return value;
  if (typeof value !== "object") return typeof value === "function" ? `[function ${value.name}]` : String(value);
  if (value instanceof RegExp || value instanceof URL) return maskText(String(value));
  if (depth === DEEPEST || ArrayBuffer.isView(value)) return `[${value.constructor.name}]`;
  if (Array.isArray(value)) return value.map((each) => mask(each, name, depth + 1));
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && prototype !== Object.prototype) return `[${value.constructor.name}]`;
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [key, mask(each, SECRET.test(name) ? name : key, depth + 1)]),
  );
}

function maskText(text: string): string {
  return text
    .replaceAll(/([a-z][a-z0-9+.-]*:\/\/)[^/?#\s]*@/gi, `$1${MASK}@`)
    .replaceAll(/([?&][^=&#\s]*(?:key|secret|token|password|signature)[^=&#\s]*=)[^&#\s]+/gi, `$1${MASK}`)
    .replaceAll(/\b(Bearer|Basic) +\S+/gi, `$1 ${MASK}`);
}
