import fc from "fast-check";
import { expect, test } from "vitest";
import { OutgoingBody } from "../../../core/wire/body.ts";
import type { Outbox } from "../../../core/wire/outbox.ts";
import { Retained } from "../../../core/wire/retained.ts";

const nowhere: Outbox = {
  control: () => undefined,
  credit: () => undefined,
  ready: () => undefined,
  flush: () => undefined,
  close: () => undefined,
};

test("what was sent comes back from any offset that is still here, byte for byte, with its flags", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 5_000 }), { minLength: 1, maxLength: 30 }),
      fc.nat(),
      fc.nat(),
      (messages, trim, from) => {
        const retained = new Retained();
        messages.forEach((bytes, i) => retained.add(bytes, i % 4));
        const all = Buffer.concat(messages);
        retained.trim(trim % (all.length + 1));
        const floor = all.length - retained.size;
        const at = from % (all.length + 1);
        const pieces = retained.replay(at);
        if (at < floor) return expect(pieces).toBeUndefined();
        expect(floor).toBeLessThanOrEqual(trim % (all.length + 1));
        expect(Buffer.concat((pieces ?? []).map(({ bytes }) => bytes)).equals(all.subarray(at))).toBe(true);
        const ends = messages.map((_, i) => Buffer.concat(messages.slice(0, i + 1)).length);
        const flags = messages.map((_, i) => i % 4).filter((_, i) => (ends[i] as number) > at);
        expect((pieces ?? []).map((piece) => piece.flags)).toEqual(flags);
      },
    ),
  );
});

test("a peer that grants more than a node keeps does not make it keep more", () => {
  const keep = 65_536;
  const body = new OutgoingBody(nowhere, 1, 0, 16 * 1_048_576, keep);
  for (let i = 0; i < 200; i++) {
    void body.push(new Uint8Array(16_384));
    body.take(16_384);
  }
  expect(body.held).toBeGreaterThanOrEqual(keep);
  expect(body.held).toBeLessThanOrEqual(keep + 16_384);
  expect(body.resume(nowhere, 0)).toBe(false);
});
