import { describe, expect, onTestFinished, test } from "vitest";
import { createNode, openIdentity, type AimoNode } from "../../core/index.ts";
import { libp2p, memory, stream } from "../../plugins/transports/index.ts";
import { attacks, chat, collect, hostileNode, hostilePeer, type Attack, type HostilePeer } from "../suites/index.ts";
import { provider, silent } from "./local.ts";
import { quiet, until, wiredNode, type WiredNode } from "./pair.ts";

/** A node that offers "m", and a peer that has said HELLO. */
async function scene(handle = silent): Promise<{ wired: WiredNode; peer: HostilePeer }> {
  const wired = await wiredNode([provider("p", handle)], { limits: { bodies: 4 * 1_048_576 } }, { random: () => 0 });
  const peer = hostilePeer(wired.accept, { runtime: wired.runtime });
  peer.hello();
  await quiet();
  return { wired, peer };
}

/** It answers others: a client of its own, and a peer that does nothing wrong. */
async function expectAlive({ node, accept, runtime }: WiredNode): Promise<void> {
  const honest = hostilePeer(accept, { runtime });
  honest.hello();
  await quiet();
  honest.ask(1, { head: { model: "ok" } });
  await until(() => honest.of("END").length === 1);
  expect(honest.closed).toBeUndefined();
  expect((await collect(node, chat("ok"))).text).toBe("fine");
}

describe("a hostile peer", () => {
  test("can behave: it says HELLO, asks, and is answered", async () => {
    const { wired, peer } = await scene((_, reply) => void reply.send("hello"));
    expect([...wired.node.peers].map(({ id }) => id)).toEqual([peer.identity.peerId]);
    peer.ask(1, { head: { model: "m" } });
    await quiet();
    expect(peer.of("DATA").map(({ body }) => Buffer.from(body).toString())).toEqual(["hello"]);
    expect(peer.of("END")).toHaveLength(1);
    expect(peer.got[0]?.type).toBe(0x01);
  });

  test("can answer what a node asks, and reacts in a turn of its own", async () => {
    const { wired, peer } = await scene();
    peer.react = (message) => void (message.type === 0x02 && peer.answer(message, { body: "from afar" }));
    peer.offer("remote");
    await quiet();
    const { text, outcome } = await collect(wired.node, chat("remote", { stream: true }));
    expect([text, outcome.status]).toEqual(["from afar", "ok"]);
  });

  test("may lie in HELLO, and is told how the node ended it", async () => {
    const wired = await wiredNode();
    const peer = hostilePeer(wired.accept, { runtime: wired.runtime });
    peer.hello({ peer: openIdentity().peerId });
    await quiet();
    expect(peer.closed?.error).toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
    peer.say("PING", { body: new Uint8Array(8) });
    peer.leave();
    expect(peer.closed?.error).toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
  });

  test("sees a node that refuses its link at once", async () => {
    let closes = 0;
    const peer = hostilePeer((link) => {
      link.close();
      return { message: () => expect.unreachable(), closed: () => void closes++ };
    });
    peer.hello();
    expect([peer.closed, closes]).toEqual([{ error: undefined }, 1]);
  });
});

/** Why its link is closed; those without a reason here keep it. */
const ENDS: Partial<Record<keyof typeof attacks, RegExp>> = {
  overrun: /beyond the granted/,
  answerUnasked: /never opened/,
  floodPings: /more pings/,
  floodAdverts: /more adverts/,
  sendGarbage: /malformed/,
};

describe("a node lives through", () => {
  const all = Object.entries(attacks) as [keyof typeof attacks, Attack][];

  test.each(all)("%s", async (name, attack) => {
    const wired = await wiredNode(
      [provider("p", silent), provider("q", (_, reply) => void reply.send("fine"), ["ok"])],
      { limits: { bodies: 4 * 1_048_576, callsPerPeer: 100 } },
      { random: () => 0 },
    );
    const peer = hostilePeer(wired.accept, { runtime: wired.runtime });
    peer.hello();
    await quiet();
    attack(peer);
    await quiet();
    expect([...wired.node.calls].length).toBeLessThanOrEqual(100);
    const why = ENDS[name];
    if (why) expect(peer.closed?.error?.message).toMatch(why);
    else if (name !== "floodResumes") expect(peer.closed).toBeUndefined(); // either is right there
    await expectAlive(wired);
  });

  test.each([
    ["lieInDigest", "STREAM_INTERRUPTED"],
    ["lieInTotal", "STREAM_INTERRUPTED"],
    ["lieInRequest", "STREAM_INTERRUPTED"],
    ["lieInSigner", "STREAM_INTERRUPTED"],
    ["lieInOutcome", "STREAM_INTERRUPTED"],
    ["neverAnswer", "REQUEST_TIMEOUT"],
  ] as const)("%s: the caller gets one error, and no end", async (name, code) => {
    const { wired, peer } = await scene();
    attacks[name](peer, { model: "remote" });
    await quiet();
    const reply = collect(wired.node, chat("remote", { stream: true }));
    await until(() => peer.of("REQUEST").length > 0);
    // A peer that does nothing would be closed by silence; this one is there.
    for (let i = 0; i < 130 && name === "neverAnswer"; i++) {
      await wired.runtime.advance(1_000);
      const [call] = peer.of("REQUEST");
      peer.say("ALIVE", { call: call?.call ?? 0, body: { state: "working" } });
    }
    const { outcome, frames } = await reply;
    expect(outcome.error?.code).toBe(code);
    expect(frames.filter((frame) => frame.messageType === "Error")).toHaveLength(1);
    expect(frames.at(-1)?.messageType).toBe("Error");
  });

  test("lieInSignature: it is told, when it is among those that are checked", async () => {
    const { wired, peer } = await scene();
    attacks.lieInSignature(peer, { model: "remote" });
    await quiet();
    await collect(wired.node, chat("remote", { stream: true }));
    await quiet();
    expect(wired.errors).toMatchObject([{ message: expect.stringContaining("signed a receipt wrongly") as string }]);
  });
});

describe("a hostile node", () => {
  async function joined(node: AimoNode, peer: HostilePeer): Promise<void> {
    peer.hello();
    await until(() => [...node.peers].some(({ id }) => id === peer.identity.peerId));
  }

  test("is a member of a memory network, with a peer for each link", async () => {
    const network = "hostile";
    const plugins = [memory({ network }), provider("p", (_, reply) => void reply.send("x"))];
    await using one = await createNode({ plugins, drain: 0 });
    await using two = await createNode({ plugins: [memory({ network })], drain: 0 });
    await using hostile = await hostileNode([memory({ network })]);
    expect(hostile.peers).toHaveLength(2);
    for (const [i, node] of [one, two].entries()) await joined(node, hostile.peers[i] as HostilePeer);
    const peer = await hostile.peer;
    peer.ask(1, { head: { model: "m" } });
    await until(() => peer.of("END").length === 1);
    peer.say("DATA", { call: 9, body: new Uint8Array(1) });
    await until(() => peer.closed !== undefined);
    expect([...two.peers].map(({ id }) => id)).toContain(hostile.identity.peerId);
    expect([...one.peers].map(({ id }) => id)).toEqual([two.id]);
  });

  test("joins over libp2p", async () => {
    const listen = ["/ip4/127.0.0.1/tcp/0"];
    const plugins = [libp2p({ listen }), stream(), provider("p", (_, reply) => void reply.send("x"))];
    const node = await createNode({ plugins, drain: 0 });
    onTestFinished(() => node.close());
    const came = new Promise<string>((resolve) => node.hook("peer:join", resolve));
    const join = [...node.use("libp2p").addresses];
    const hostile = await hostileNode([libp2p({ join }), stream()]);
    onTestFinished(() => hostile.close());
    const peer = await hostile.peer;
    peer.hello();
    expect(await came).toBe(hostile.identity.peerId);
    const left = new Promise<unknown>((resolve) => node.hook("peer:leave", (_, error) => resolve(error)));
    attacks.sendGarbage(peer);
    expect(await left).toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
  });
});
