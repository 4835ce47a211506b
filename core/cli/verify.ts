import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import { isDeepStrictEqual } from "node:util";
import { AimoError } from "../error.ts";
import type { Receipt } from "../frame.ts";
import { openIdentity } from "../identity.ts";
import { readReceipt, sha256, toFacts, verifyReceipt } from "../wire/receipt.ts";

export interface VerifyOptions {
  /** File with the body that the client sent. */
  request?: string;
  /** File with the body that the client got. */
  reply?: string;
  json?: boolean;
}

/** What `GET /v1/receipts/:id` says of a receipt and the provider has not signed. */
const UNSIGNED = new Set(["object", "target", "receipt", "signature", "verified", "modified"]);
/** What a gateway puts into a stream while nothing comes. */
const COMMENT = ": keep-alive\n\n";

/** Checks receipts without asking anybody. Throws INVALID_MESSAGE_FORMAT behind the lines when one of them is wrong. */
export async function verify(file: string | undefined, { request, reply, json = false }: VerifyOptions): Promise<void> {
  const given = toList(await read(file));
  const requestBody = request === undefined ? undefined : await read(request);
  const replyBody = reply === undefined ? undefined : await read(reply);
  const identity = openIdentity(); // for its eyes, not for its key
  let first: string | undefined;
  for (const [i, each] of given.entries()) {
    // What the client got is the last attempt's.
    const last = i === given.length - 1;
    const { receipt, wrong } = check(each, identity, requestBody, last ? replyBody : undefined);
    first ??= wrong;
    process.stdout.write(json ? `${JSON.stringify(toEvent(receipt, wrong))}\n` : toLine(receipt, wrong));
  }
  if (first !== undefined) throw new AimoError("INVALID_MESSAGE_FORMAT", first);
}

type Given = Readonly<Record<string, unknown>>;

function check(
  given: Given,
  identity: ReturnType<typeof openIdentity>,
  request: Uint8Array | undefined,
  reply: Uint8Array | undefined,
): { receipt?: Receipt; wrong?: string } {
  let receipt: Receipt;
  try {
    receipt = readReceipt(toBytes(given["receipt"]), toBytes(given["signature"]));
  } catch (error) {
    return { wrong: `The receipt cannot be read: ${AimoError.from(error).message}` };
  }
  const wrong =
    (verifyReceipt(receipt, identity) ? undefined : "The signature is not the provider's.") ??
    differing(receipt, given) ??
    (request && wrongRequest(receipt, request)) ??
    (reply && wrongReply(receipt, reply, given["modified"] === true));
  return { receipt, ...(wrong !== undefined && { wrong }) };
}

/** The readable form says all that was signed, and nothing else. */
function differing(receipt: Receipt, given: Given): string | undefined {
  const facts = JSON.parse(JSON.stringify(toFacts(receipt))) as Record<string, unknown>;
  for (const name of new Set([...Object.keys(facts), ...Object.keys(given)]))
    if (!UNSIGNED.has(name) && !isDeepStrictEqual(facts[name], given[name]))
      return `What the provider signed says something else about "${name}".`;
  return undefined;
}

function wrongRequest({ requestDigest }: Receipt, body: Uint8Array): string | undefined {
  if (equal(sha256(body), requestDigest)) return undefined;
  return "The receipt is for another request: its digest is not that of the file.";
}

function wrongReply({ bytes, digest, outcome }: Receipt, body: Uint8Array, modified: boolean): string | undefined {
  const fits = (read: Uint8Array): boolean => {
    // Behind a part comes what the gateway says of its end.
    const part = outcome === "complete" ? read : read.subarray(0, bytes);
    return part.length === bytes && equal(sha256(part), digest);
  };
  if (fits(body) || fits(Buffer.from(Buffer.from(body).toString("latin1").replaceAll(COMMENT, ""), "latin1")))
    return undefined;
  if (modified) return "The reply is not what the provider sent: plugins of the gateway changed it.";
  if (body.length !== bytes) return `The reply has ${body.length} bytes, and the provider signed for ${bytes}.`;
  return "The reply is not what the provider sent: its digest is another one.";
}

function toLine(receipt: Receipt | undefined, wrong: string | undefined): string {
  const mark = wrong === undefined ? "right" : "WRONG";
  if (receipt === undefined) return `${mark}  ${wrong}\n`;
  const { request, outcome, status, bytes, provider, model } = receipt;
  const of = model === undefined ? "" : ` of ${JSON.stringify(model)}`;
  const why = wrong === undefined ? "" : `: ${wrong}`;
  return `${mark}  ${request}  ${outcome}, status ${status}, ${bytes} bytes${of} from ${provider}${why}\n`;
}

function toEvent(receipt: Receipt | undefined, wrong: string | undefined): object {
  const { request, outcome, status, bytes, provider, model } = receipt ?? {};
  const facts = { request, outcome, status, bytes, provider, model };
  return { right: wrong === undefined, ...facts, ...(wrong !== undefined && { wrong }) };
}

/** A list of the API, or one receipt of it. */
function toList(bytes: Uint8Array): Given[] {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    throw new AimoError("INVALID_MESSAGE_FORMAT", "This is no JSON; it must be what GET /v1/receipts/:id answers.");
  }
  const { data = [value] } = (value ?? {}) as { data?: unknown };
  const list = Array.isArray(data) ? data.filter((each) => typeof each?.receipt === "string") : [];
  if (list.length > 0 && list.length === (data as unknown[]).length) return list as Given[];
  throw new AimoError(
    "INVALID_MESSAGE_FORMAT",
    "There is no receipt in it; it must be what GET /v1/receipts/:id answers.",
  );
}

function toBytes(base64: unknown): Uint8Array {
  return Buffer.from(typeof base64 === "string" ? base64 : "", "base64");
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** Without a name: stdin. Throws CONFIG_INVALID. */
async function read(file: string | undefined): Promise<Uint8Array> {
  try {
    return await (file === undefined ? buffer(process.stdin) : readFile(file));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AimoError("CONFIG_INVALID", `Cannot read ${file ?? "stdin"}: ${why}.`, { cause });
  }
}
