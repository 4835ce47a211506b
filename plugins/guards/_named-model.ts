import type { RequestFrame } from "../../core/frame.ts";
import { membersOf } from "../providers/_members.ts";

/** In UTF-8, as far as it says: there are servers that read another charset. */
const JSON_TYPE = /^application\/([\w.-]+\+)?json\s*(;\s*charset=("?)utf-?8\3\s*)?$/i;
/** With one boundary: of two of them servers take the first or the last. */
const FORM_TYPE =
  /^multipart\/form-data\s*;\s*boundary=(?:"([\w'()+,./:=?-]+)"|([\w'()+./:=?-]+))\s*(;\s*charset=utf-?8\s*)?$/i;
/** What a server could take for `model`, or for several of them: those in Go look at no case. */
const ALIKE = /^models?$/iu;
const QUOTE = 0x22;

const HEAD = /^\r\n((?:[\w-]+:[^\r\n]*\r\n)+)\r\n/;
/** Of a part of a form, as clients write it. */
const DISPOSITION =
  /^content-disposition: ?form-data; ?name=(?:"([^"\\]*)"|([\w.-]+))((?:; ?filename\*?=(?:"(?:[^"\\]|\\.)*"|[^\s";]+))*)$/i;
/** What the provider's adapter reads of one. bytes */
const LONGEST_HEAD = 8_000;

/**
 * Does the body name its model where the provider's adapter writes in the one that was routed, and nowhere else that a
 * server could look for one? Whatever it says there is of no account, then.
 */
export function namesModel({ type, contentType, body }: Readonly<RequestFrame>): boolean {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  if (JSON_TYPE.test(contentType)) return isNamedInJson(bytes, type.startsWith("openai."));
  const [, quoted, plain] = FORM_TYPE.exec(contentType) ?? [];
  const boundary = quoted ?? plain;
  // What says that it is JSON is read as that by the adapter.
  return boundary !== undefined && !/json/i.test(contentType) && isNamedInForm(bytes.toString("latin1"), boundary);
}

/** `models`: the adapter leaves those out. */
function isNamedInJson(bytes: Buffer, models: boolean): boolean {
  try {
    // What is no JSON to everybody may be UTF-16 to some.
    JSON.parse(bytes.toString());
  } catch {
    return false;
  }
  let named = false;
  for (const { key, valueStart } of membersOf(bytes)) {
    if (!ALIKE.test(key) || (models && key === "models")) continue;
    if (key !== "model" || bytes[valueStart] !== QUOTE) return false;
    named = true;
  }
  return named;
}

/** Nothing but parts, whose heads and ends everybody finds in the same places. */
function isNamedInForm(text: string, boundary: string): boolean {
  const [before, ...parts] = text.split(`--${boundary}`);
  const end = parts.pop();
  if (before !== "" || end === undefined || !/^--(\r\n)?$/.test(end)) return false;
  let named = false;
  for (const part of parts) {
    const [head = "", lines = ""] = HEAD.exec(part) ?? [];
    if (head === "" || head.length > LONGEST_HEAD || part.length < head.length + 2 || !part.endsWith("\r\n"))
      return false;
    const told = lines.split("\r\n").filter((line) => /^content-disposition:/i.test(line));
    const [known, quoted, plain, file] = DISPOSITION.exec(told[0] ?? "") ?? [];
    if (told.length !== 1 || known === undefined) return false;
    const name = quoted ?? plain ?? "";
    if (!ALIKE.test(name)) continue;
    if (name !== "model" || file !== "") return false;
    named = true;
  }
  return named;
}
