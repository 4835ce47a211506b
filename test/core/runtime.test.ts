import { describe, expect, it } from "vitest";
import { systemRuntime } from "../../core/index.ts";
import { deadline, idle } from "../../core/runtime.ts";
import { createVirtualRuntime } from "../kit/virtual-runtime.ts";

function stage(ms: number) {
  const runtime = createVirtualRuntime();
  const started = runtime.now();
  let fired: number | undefined;
  const watch = idle(runtime, ms, () => (fired = runtime.now() - started));
  return {
    runtime,
    watch,
    get fired() {
      return fired;
    },
  };
}

it("a deadline that comes late because our own loop hung begins again", async () => {
  const runtime = createVirtualRuntime();
  let hang = 0;
  const hung = { ...runtime, now: () => runtime.now() + hang };
  let calls = 0;
  deadline(hung, 1_500, () => calls++);
  hang = 400; // nothing ran for so long
  await runtime.advance(1_500);
  expect(calls).toBe(0);
  await runtime.advance(1_499);
  expect(calls).toBe(0);
  await runtime.advance(1);
  expect(calls).toBe(1);
  const cancel = deadline(hung, 10, () => calls++);
  hang = 1_000;
  await runtime.advance(10);
  cancel();
  await runtime.advance(100);
  expect(calls).toBe(1);
});

describe("idle", () => {
  it("calls once after so much silence", async () => {
    const s = stage(1_000);
    await s.runtime.advance(5_000);
    expect(s.fired).toBe(1_000);
    expect(s.runtime.pending).toBe(0);
  });

  it("starts again at each touch", async () => {
    const s = stage(1_000);
    for (let i = 0; i < 5; i++) {
      await s.runtime.advance(900);
      s.watch.touch();
    }
    expect(s.fired).toBeUndefined();
    await s.runtime.advance(2_000);
    expect(s.fired).toBe(5_500);
  });

  it("a touch costs no timer", async () => {
    const s = stage(1_000);
    for (let i = 0; i < 100; i++) s.watch.touch();
    expect(s.runtime.pending).toBe(1);
  });

  it("a touch may change how long, for shorter and for longer", async () => {
    const shorter = stage(5_000);
    await shorter.runtime.advance(1_000);
    shorter.watch.touch(500);
    await shorter.runtime.advance(5_000);
    expect(shorter.fired).toBe(1_500);
    const longer = stage(500);
    longer.watch.touch(3_000);
    await longer.runtime.advance(5_000);
    expect(longer.fired).toBe(3_000);
  });

  it("does not count while it is held, and starts afresh when it is released", async () => {
    const s = stage(1_000);
    await s.runtime.advance(900);
    s.watch.hold();
    await s.runtime.advance(10_000);
    s.watch.release();
    await s.runtime.advance(999);
    expect(s.fired).toBeUndefined();
    await s.runtime.advance(1_000);
    expect(s.fired).toBe(11_900);
  });

  it("leaves no timer when it is stopped", async () => {
    const s = stage(1_000);
    s.watch.stop();
    expect(s.runtime.pending).toBe(0);
    await s.runtime.advance(5_000);
    expect(s.fired).toBeUndefined();
  });

  it("gives a fresh start when our own loop hung", () => {
    let now = 0;
    let timer: () => void = () => undefined;
    let fired = false;
    const runtime = {
      ...systemRuntime,
      now: () => now,
      setTimeout: (_: number, then: () => void) => ((timer = then), () => undefined),
    };
    idle(runtime, 1_000, () => (fired = true));
    now = 9_000; // the timer was due at 1,000
    timer();
    expect(fired).toBe(false);
    now = 10_000;
    timer();
    expect(fired).toBe(true);
  });
});

describe("the system's runtime", () => {
  it("has a clock in Unix ms that never goes back", () => {
    const first = systemRuntime.now();
    expect(Math.abs(first - Date.now())).toBeLessThan(60_000);
    expect(systemRuntime.now()).toBeGreaterThanOrEqual(first);
  });

  it("has timers that can be cancelled, a turn, and randomness", async () => {
    const cancel = systemRuntime.setTimeout(1, () => expect.unreachable());
    cancel();
    await new Promise<void>((resolve) => void systemRuntime.setTimeout(2, resolve));
    await new Promise<void>((resolve) => systemRuntime.turn(resolve));
    expect(systemRuntime.randomBytes(16)).toHaveLength(16);
    expect(systemRuntime.random()).toBeLessThan(1);
  });
});

describe("a virtual runtime", () => {
  it("runs timers in the order in which they are due, those of timers too", async () => {
    const runtime = createVirtualRuntime();
    const started = runtime.now();
    const ran: string[] = [];
    const note = (what: string) => (): void => void ran.push(`${what}@${runtime.now() - started}`);
    runtime.setTimeout(20, note("b"));
    runtime.setTimeout(10, () => {
      note("a")();
      runtime.setTimeout(5, note("nested"));
    });
    runtime.setTimeout(20, note("c"));
    runtime.setTimeout(31, note("late"));
    await runtime.advance(30);
    expect(ran).toEqual(["a@10", "nested@15", "b@20", "c@20"]);
    expect([runtime.now() - started, runtime.pending]).toEqual([30, 1]);
  });

  it("gives the same randomness for the same seed", () => {
    const take = (seed: number): Uint8Array => createVirtualRuntime(seed).randomBytes(16);
    expect(take(1)).toEqual(take(1));
    expect(take(1)).not.toEqual(take(2));
  });
});
