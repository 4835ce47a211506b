import { z } from "zod";
import { AimoError, isErrorCode } from "../../core/error.ts";
import type { Headers } from "../../core/frame.ts";
import { forUpstream } from "../providers/_body.ts";
import { createEventSplitter } from "../providers/_events.ts";
import { forwarded } from "./_answer.ts";
import { isEvents, type Client, type Head } from "./_client.ts";
import { check } from "./_exchange.ts";
import { headersOf, toldReceipt, type Form, type Teller } from "./_form.ts";
import { createPieces, type Piece } from "./_pieces.ts";
import { chat, NAME, routed, routingOf } from "./_routed.ts";

const JSON_TYPE = "application/json";
const TYPE = "must be a type of request, such as openai.chat";
/** A message may say these beside what is asked; the provider does not see them. */
const OURS = ["id", "type", "resume", "offset", "cancel"];

const id = z.union([z.string().min(1).max(128), z.int()], "must be a string of 1 to 128 characters, or a whole number");
const envelope = z.looseObject({
  id: id.nullish(),
  type: z.string(TYPE).min(1, TYPE).max(64, TYPE).default("openai.chat"),
  resume: z
    .union([z.literal(true), z.string().regex(/^[0-9a-f]{32}$/)], "must be true, or the request id of a call")
    .optional(),
  offset: z.int("must be a number of bytes").nonnegative("must be a number of bytes").default(0),
  cancel: z.literal(true, "must be true").optional(),
});
/** A request's own JSON with an `id`, answered by messages with that `id` around the JSON that the provider sent. */
export const plain: Form = {
  read(value, bytes, headers, node) {
    const { id: given, type, resume, offset, cancel } = check(value, envelope, "The message");
    // What has no name of its own goes by the id of its request.
    const called = JSON.stringify(given ?? (typeof resume === "string" ? resume : undefined) ?? newName(node));
    if (cancel && (given ?? undefined) === undefined)
      throw new AimoError("INVALID_MESSAGE_FORMAT", "id: must say which call is to be cancelled.", { param: "id" });
    if (cancel) return { kind: "cancel", key: called };
    const tell = (teller: Teller): Client => createPlain(called, teller);
    if (typeof resume === "string") return { kind: "resume", key: called, id: resume, offset, tell };
    const said = check(value, type === "openai.chat" ? chat : routed, "The message");
    const { target, from } = routingOf(said, node);
    if (target.model === undefined)
      throw new AimoError("INVALID_MESSAGE_FORMAT", `model: ${NAME}.`, { param: "model" });
    // The socket's own request has one, perhaps; its calls are many.
    const { "idempotency-key": _, ...kept } = forwarded(headers);
    const request = {
      type,
      contentType: JSON_TYPE,
      body: forUpstream(bytes, JSON_TYPE, undefined, OURS),
      stream: said.stream === true,
      headers: kept,
      ...target,
    };
    return { kind: "call", key: called, keeps: resume === true, request, from, tell };
  },
  keyOf: (value) => JSON.stringify(id.safeParse(value["id"]).data ?? null),
  refusal: (error, key) => failure(key, error),
};

function newName({ runtime }: { readonly runtime: { randomBytes(n: number): Uint8Array } }): string {
  return Buffer.from(runtime.randomBytes(8)).toString("hex");
}

function failure(key: string, error: AimoError, headers?: Headers): string {
  const all = headersOf(error, headers);
  const told = Object.keys(all).length > 0 ? `,"headers":${JSON.stringify(all)}` : "";
  return `{"id":${key},"error":${JSON.stringify(error.toJSON().error)},"status":${error.status}${told}}`;
}

function createPlain(key: string, teller: Teller): Client {
  const { requestId, limit } = teller;
  const splitter = createEventSplitter();
  const cut: Buffer[] = []; // an event that is longer than a chunk
  let cutLength = 0;
  let head: Head | undefined;
  let pieces: ReturnType<typeof createPieces> | undefined;
  let offset = teller.offset;
  let last: { readonly text: string; readonly error: unknown } | undefined; // an error: perhaps the one that ends it

  const say = (text: string, isLast = false) => teller.say(`{"id":${key}${text}}`, isLast);
  const headOf = ({ status, headers, contentType }: Head): string =>
    `"status":${status},"headers":${JSON.stringify({ ...headers, "content-type": contentType, "x-request-id": requestId })}`;
  const receipt = (): string => (teller.receipt ? `,"receipt":${JSON.stringify(toldReceipt(teller.receipt))}` : "");
  const fail = (error: AimoError, headers?: Headers): void =>
    void teller.say(failure(key, error, { ...headers, "x-request-id": requestId }), true);

  function sayPiece(piece: Piece) {
    const [[name, text]] = Object.entries(piece) as [[string, string]];
    return text === "" ? undefined : say(`,"${name}":${JSON.stringify(text)}`);
  }

  function sayEvents(bytes: Buffer) {
    let wait;
    for (const { length, name, data } of eventsIn(bytes)) {
      if (offset !== undefined) offset += length;
      if (data === undefined || data === "[DONE]") continue;
      if (last) wait = say(last.text);
      last = undefined;
      const value = valueOf(data);
      const what = value === undefined ? `"text":${JSON.stringify(data)}` : `"chunk":${data}`;
      const event = name === undefined ? "" : `,"event":${JSON.stringify(name)}`;
      const text = `${event}${offset === undefined ? "" : `,"offset":${offset}`},${what}`;
      const error = (value as { error?: unknown } | null | undefined)?.error;
      if (error !== undefined && error !== null) last = { text, error };
      else wait = say(text);
    }
    return wait;
  }

  function write(bytes: Uint8Array) {
    if (!isEvents(head)) return sayPiece((pieces ??= createPieces(head?.contentType ?? ""))(bytes));
    const whole = splitter.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    if (whole === undefined) return undefined;
    if (!whole.partial && cut.length === 0) return sayEvents(whole.bytes);
    cut.push(whole.bytes);
    if ((cutLength += whole.bytes.length) > limit)
      return void teller.fail(
        new AimoError("PAYLOAD_TOO_LARGE", `An event of the answer is larger than ${limit} bytes (limits.body).`),
      );
    if (whole.partial) return undefined;
    cutLength = 0;
    return sayEvents(Buffer.concat(cut.splice(0)));
  }

  return {
    get head() {
      return head;
    },
    begin(given) {
      head = given;
      say(`,"head":{${headOf(given)}}`);
    },
    whole(given, body) {
      const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString();
      const isJson = /\bjson\b/i.test(given.contentType) && valueOf(text) !== undefined;
      const piece = JSON.stringify(createPieces(given.contentType)(body, true)).slice(1, -1);
      say(`,${isJson ? `"response":${text}` : piece},${headOf(given)}${receipt()}`, true);
    },
    refuse: fail,
    write,
    end(bytes, close = false) {
      if (bytes.length > 0) write(bytes);
      if (isEvents(head)) sayEvents(Buffer.concat([...cut.splice(0), splitter.rest()]));
      else if (pieces) sayPiece(pieces(new Uint8Array(), true));
      if (close && last)
        return void say(`,"error":${JSON.stringify(last.error)},"status":${statusOf(last.error)}`, true);
      if (last) say(last.text);
      say(`,"done":true${receipt()}`, true);
    },
    cut: () => fail(new AimoError("STREAM_INTERRUPTED", "The answer broke off in the middle of an event.")),
  };
}

function statusOf(error: unknown): number {
  const code = String((error as { code?: unknown }).code).toUpperCase();
  return new AimoError(isErrorCode(code) ? code : "UPSTREAM_FAILED", "").status;
}

const BLANK = /(?:\r\n|\n|\r(?!\n)){2}/g;

/** The events in these bytes: how long each is, its name, and its lines of data, if it has any. */
function* eventsIn(bytes: Buffer): Generator<{ length: number; name: string | undefined; data: string | undefined }> {
  // One character for each byte, so that lengths are the same.
  const text = bytes.toString("latin1");
  for (let from = 0; from < text.length;) {
    BLANK.lastIndex = from;
    const end = BLANK.test(text) ? BLANK.lastIndex : text.length;
    let name: string | undefined;
    const data: string[] = [];
    for (const line of text.slice(from, end).split(/\r\n|\n|\r/)) {
      const [, field, value = ""] = /^(data|event)(?:: ?(.*))?$/s.exec(line) ?? [];
      if (field === "data") data.push(value);
      else if (field === "event") name = value;
    }
    const utf8 = (latin1: string): string => Buffer.from(latin1, "latin1").toString();
    yield {
      length: end - from,
      name: name && utf8(name),
      data: data.length > 0 ? utf8(data.join("\n")) : undefined,
    };
    from = end;
  }
}

/** Undefined for what is no JSON: it must not stand in a message as it is. */
function valueOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
