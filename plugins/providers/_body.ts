import { membersOf } from "./_members.ts";
import { fieldsOf, isMultipart } from "./_multipart.ts";

/** Servers in Go look at no case: the last one counts there, however it is written. */
const MODEL = /^model$/i;

/** Other bytes instead of those from `start` to before `end`. */
interface Edit {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

/**
 * The body for an upstream: `model` written in where it says otherwise, in a JSON object or in the fields of a form, and
 * without the top-level members of a JSON object that are named in `without`. All other bytes stay as they are; one that
 * needs no change, names no model or is neither JSON nor a form comes back as it is.
 */
export function forUpstream(
  body: Uint8Array,
  contentType: string,
  model: string | undefined,
  without: readonly string[] = [],
): Uint8Array {
  if (model === undefined && without.length === 0) return body;
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const edits = /\bjson\b/i.test(contentType)
    ? [...editsOfJson(bytes, model, without)]
    : isMultipart(contentType) && model !== undefined
      ? [...editsOfForm(bytes, contentType, model)]
      : [];
  if (edits.length === 0) return body;
  const pieces: Buffer[] = [];
  let from = 0;
  for (const { start, end, text } of edits) {
    pieces.push(bytes.subarray(from, start), Buffer.from(text));
    from = end;
  }
  return Buffer.concat([...pieces, bytes.subarray(from)]);
}

/** Each `model`, if there are several: parsers differ on which counts. */
function* editsOfJson(bytes: Buffer, model: string | undefined, without: readonly string[]): Generator<Edit> {
  const wanted = JSON.stringify(model);
  const members = [...membersOf(bytes)];
  const lastKept = members.findLastIndex(({ key }) => !without.includes(key));
  for (const [i, { key, start, valueStart, valueEnd }] of members.entries()) {
    if (i > lastKept) {
      // From the comma before it, to before the closing brace.
      const end = (members.at(-1) as { valueEnd: number }).valueEnd;
      return yield { start: members[lastKept]?.valueEnd ?? start, end, text: "" };
    }
    if (without.includes(key)) yield { start, end: (members[i + 1] as { start: number }).start, text: "" };
    else if (MODEL.test(key) && wanted !== undefined && bytes[valueStart] === 0x22)
      if (bytes.toString("utf8", valueStart, valueEnd) !== wanted)
        yield { start: valueStart, end: valueEnd, text: wanted };
  }
}

function* editsOfForm(bytes: Buffer, contentType: string, model: string): Generator<Edit> {
  for (const { name, start, end } of fieldsOf(bytes, contentType))
    if (name === "model" && bytes.toString("utf8", start, end) !== model) yield { start, end, text: model };
}
