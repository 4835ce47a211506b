import { decode } from "cborg";
import { decodeMessage, Flag, Type } from "../core/wire/codec.ts";

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

/** Bytes as `{ $hex }`, all else as JSON has it. */
export function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { $hex: hex(value) };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
}

/** What a message says, for people. */
export function told(bytes: Uint8Array): object {
  const message = decodeMessage(bytes);
  if (message === undefined) throw new Error("a message that is to be ignored");
  const { type, flags, call, offset, body } = message;
  const name = Object.entries(Type).find(([, value]) => value === type)?.[0];
  const set = Object.entries(Flag).flatMap(([flag, bit]) => (flags & bit ? [flag] : []));
  const raw = [Type.DATA, Type.PING, Type.PONG].includes(type as typeof Type.DATA) || body.length === 0;
  return { type: name, flags: set, call, offset, ...(raw ? { body: hex(body) } : { head: plain(decode(body)) }) };
}
