import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode, encode } from "cborg";
import type { Storage } from "unstorage";
import { describe, expect, onTestFinished, test } from "vitest";
import { AimoError, openIdentity, systemRuntime, type Identity, type Plugin } from "../../../core/index.ts";
import { makeAdvert } from "../../../core/wire/advert.ts";
import { Type } from "../../../core/wire/codec.ts";
import { decodeHead } from "../../../core/wire/heads.ts";
import { makeInvitation, readInvitation, type Terms } from "../../../plugins/guards/_invitation.ts";
import { trust, type TrustOptions } from "../../../plugins/guards/index.ts";
import { openLocal } from "../../../plugins/stores/_local.ts";
import type { Store } from "../../../plugins/stores/_store.ts";
import { provider, silent, whole } from "../../kit/local.ts";
import { connect, pass, quiet, rawPeer, wiredNode, type RawPeer, type WiredNode } from "../../kit/pair.ts";
import { chat, collect } from "../../suites/build.ts";

const DAY = 86_400_000;
const INVITED: TrustOptions = { provide: { allow: [] }, call: { allow: [] } };

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "aimo-test-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

const guarded = (options: TrustOptions = INVITED, dataDir?: string, more: readonly Plugin[] = []): Promise<WiredNode> =>
  wiredNode([trust(options), provider("p", whole("{}")), ...more], dataDir === undefined ? {} : { dataDir });

function invitation(
  { node, runtime }: WiredNode,
  terms: Partial<Terms> = {},
  identity: Identity = node.identity,
): string {
  return makeInvitation(
    { roles: ["provide", "call"], until: Math.round(runtime.now()) + DAY, ...terms },
    identity,
    randomBytes,
  );
}

/** A peer that says HELLO with these invitations, and offers a model. */
async function comes(to: WiredNode, invites?: unknown, identity: Identity = openIdentity()): Promise<RawPeer> {
  const peer = rawPeer(to, { identity });
  peer.hello(invites === undefined ? {} : { invites });
  if (!peer.closed) peer.offer("theirs");
  await quiet();
  return peer;
}

const offered = ({ node }: WiredNode): string[] =>
  [...node.targets].filter(({ local }) => !local).map(({ peer }) => peer);
const remotes = ({ node }: WiredNode): string[] => [...node.peers].map(({ id }) => id);

/** What the peer was told at the end. */
function told(peer: RawPeer): string | undefined {
  const [bye] = peer.of("BYE");
  return bye && decodeHead(Type.BYE, bye.body).message;
}

/** What the peer was told about its advert. */
function refusals(peer: RawPeer): string[] {
  return peer.of("ADVERT").flatMap(({ body }) => decodeHead(Type.ADVERT, body).refused ?? []);
}

describe("lists", () => {
  test("without any, every peer may offer and call", async () => {
    const node = await guarded({});
    const peer = await comes(node);
    expect(offered(node)).toEqual([peer.identity.peerId]);
    peer.ask(1, { head: { model: "m" } });
    await quiet();
    expect(peer.of("END")).toHaveLength(1);
  });

  test("a peer that may do neither is not linked, is told why, and may come back", async () => {
    const stranger = openIdentity();
    const node = await guarded({ provide: { deny: [stranger.peerId] }, call: { deny: [stranger.peerId] } });
    for (let i = 0; i < 2; i++) {
      const peer = await comes(node, undefined, stranger);
      expect(peer.closed?.error?.code).toBe("FORBIDDEN");
      expect(told(peer)).toBe("This peer may not call this node.");
    }
    expect([remotes(node), offered(node)]).toEqual([[], []]);
    expect((await comes(node)).closed).toBeUndefined();
  });

  test("a peer that may call and not provide is linked, has no targets, and is told why once", async () => {
    const node = await guarded({ provide: { allow: [] } });
    const peer = await comes(node);
    peer.offer("another");
    await quiet();
    expect([remotes(node), offered(node)]).toEqual([[peer.identity.peerId], []]);
    expect(refusals(peer)).toEqual([expect.stringContaining("Only nodes that were invited may offer models here")]);
    peer.ask(1, { head: { model: "m" } });
    await quiet();
    expect(peer.of("END")).toHaveLength(1);
  });

  test("a peer that may provide and not call is refused with its call's error, before the body is read", async () => {
    const friend = openIdentity();
    const node = await guarded({ provide: { allow: [friend.peerId] }, call: { allow: [] } });
    const peer = await comes(node, undefined, friend);
    expect(offered(node)).toEqual([friend.peerId]);
    peer.ask(1, { last: false, head: { model: "m", bodyLength: 1_000_000 } });
    await quiet();
    const [error] = peer.of("ERROR");
    expect(error && decodeHead(Type.ERROR, error.body)).toMatchObject({ code: "forbidden" });
    expect([peer.of("CREDIT"), peer.closed]).toEqual([[], undefined]);
  });

  test("deny wins over allow and over an invitation", async () => {
    const friend = openIdentity();
    const both = { allow: [friend.peerId], deny: [friend.peerId] };
    const node = await guarded({ provide: both, call: both });
    const peer = await comes(node, [invitation(node)], friend);
    expect(told(peer)).toContain("may not call this node");
  });

  test("what it was called with is shown without the invitations", () => {
    const token = makeInvitation({ roles: ["call"], until: 1 }, openIdentity(), randomBytes);
    const { options } = trust({ invites: [token] });
    expect(options).toMatchObject({ invites: [readInvitation(token)?.id as string], provide: { deny: [] } });
    expect(JSON.stringify(options)).not.toContain(token);
  });

  test.each([
    [{ provide: { allow: ["me"] } }, /provide\.allow\.0: must be a peer id/],
    [{ invites: ["aimo-invite-secret"] }, /invites\.0: must be an invitation/],
    [{ invited: true }, /there is no option "invited"/],
  ])("%j is refused in one sentence", (options, why) => {
    expect(() => trust(options as TrustOptions)).toThrow(why);
    expect(() => trust(options as TrustOptions)).not.toThrow(/aimo-invite-secret/);
  });
});

describe("an invitation", () => {
  test("lets the first peer that comes with it in, and no other", async () => {
    const node = await guarded();
    const token = invitation(node);
    const first = await comes(node, [token]);
    const second = await comes(node, [token]);
    expect(offered(node)).toEqual([first.identity.peerId]);
    expect(told(second)).toContain("was redeemed by another node");
    expect((await comes(node, [token], first.identity)).closed).toBeUndefined();
  });

  test("of two that come with it at once lets in one", async () => {
    const node = await guarded();
    const token = invitation(node);
    const peers = [rawPeer(node), rawPeer(node)];
    for (const peer of peers) peer.hello({ invites: [token] });
    await quiet();
    expect(peers.map(({ closed }) => closed === undefined).toSorted()).toEqual([false, true]);
  });

  test("is bound to its peer beyond a restart, until it ends", async () => {
    const dataDir = folder();
    const node = await guarded(INVITED, dataDir);
    const token = invitation(node, { until: Math.round(node.runtime.now()) + DAY });
    const first = await comes(node, [token]);
    const closed = node.node.close();
    await node.runtime.advance(60_000);
    await closed;
    const again = await guarded(INVITED, dataDir);
    expect(again.node.id).toBe(node.node.id);
    // The peer need not show it again.
    expect((await comes(again, undefined, first.identity)).closed).toBeUndefined();
    expect(told(await comes(again, [token]))).toContain("was redeemed by another node");
  });

  test("gives what it says, and no more", async () => {
    const node = await guarded();
    const peer = await comes(node, [invitation(node, { roles: ["call"] })]);
    expect(offered(node)).toEqual([]);
    expect(refusals(peer)).toHaveLength(1);
    peer.ask(1, { head: { model: "m" } });
    await quiet();
    expect(peer.of("END")).toHaveLength(1);
  });

  test("of a node that `issuers` names counts, of another one it does not", async () => {
    const issuer = openIdentity();
    const node = await guarded({ ...INVITED, issuers: [issuer.peerId] });
    const friend = await comes(node, [invitation(node, {}, issuer)]);
    expect(offered(node)).toEqual([friend.identity.peerId]);
    expect(told(await comes(node, [invitation(node, {}, openIdentity())]))).toContain(
      "of a node that has none to give",
    );
  });

  test("that has a name on it is for that peer alone", async () => {
    const node = await guarded();
    const friend = openIdentity();
    const token = invitation(node, { peer: friend.peerId });
    expect(told(await comes(node, [token]))).toContain("is for another node");
    expect((await comes(node, [token], friend)).closed).toBeUndefined();
  });

  test("that ends takes its peer's targets and link away", async () => {
    const node = await guarded();
    const peer = await comes(node, [invitation(node, { until: Math.round(node.runtime.now()) + 30_000 })]);
    expect(offered(node)).toEqual([peer.identity.peerId]);
    for (let waited = 0; waited < 50 && !peer.closed; waited++) {
      await node.runtime.advance(1_000);
      peer.say("PING", { body: Buffer.alloc(8) });
      peer.offer("theirs");
      await quiet();
    }
    expect(offered(node)).toEqual([]);
    expect(told(peer)).toContain("Only nodes that were invited may call this node");
    expect(node.runtime.now()).toBeGreaterThan(30_000);
  });

  test("that is revoked takes its peer's targets and link away, and no peer may come with it", async () => {
    const node = await guarded();
    const [token, unused] = [invitation(node), invitation(node)];
    const peer = await comes(node, [token]);
    const service = node.node.use("trust");
    await service.revoke(readInvitation(token)?.id as string);
    await service.revoke(unused);
    expect(offered(node)).toEqual([]);
    await node.runtime.advance(1_000);
    expect(told(peer)).toContain("was revoked");
    expect(told(await comes(node, [token], peer.identity))).toContain("was revoked");
    expect(told(await comes(node, [unused]))).toContain("was revoked");
    expect([...service.invited].map(({ revoked }) => revoked)).toEqual([true, true]);
    await expect(service.revoke("nonsense")).rejects.toMatchObject({ code: "INVALID_MESSAGE_FORMAT" });
  });

  test("that another node has redeemed or revoked in the same store counts here as it does there", async () => {
    const [a, b] = [openIdentity(), openIdentity()];
    const dataDir = folder();
    const issuer = openIdentity();
    const share: Plugin = {
      name: "store-test",
      options: {},
      provides: ["store"],
      setup: (face) => face.provide("store", openLocal({ config: { dataDir }, runtime: face.runtime } as never)),
    };
    const start = (): Promise<WiredNode> =>
      wiredNode([share, trust({ ...INVITED, issuers: [issuer.peerId] }), provider("p", silent)]);
    const [near, far] = [await start(), await start()];
    const token = invitation(near, {}, issuer);
    expect((await comes(near, [token], a)).closed).toBeUndefined();
    expect(told(await comes(far, [token], b))).toContain("was redeemed by another node");
    const there = await comes(far, [token], a);
    expect(there.closed).toBeUndefined();
    await near.node.use("trust").revoke(token);
    for (let waited = 0; waited < 15 && !there.closed; waited++) {
      await far.runtime.advance(1_000);
      there.say("PING", { body: Buffer.alloc(8) });
      await quiet();
    }
    expect(told(there)).toContain("was revoked");
  });

  test("that two nodes are asked for at the same time lets in one peer at one of them", async () => {
    const issuer = openIdentity();
    const local = openLocal({ config: {}, runtime: systemRuntime } as never);
    onTestFinished(() => local.close());
    const share: Plugin = {
      name: "store-test",
      options: {},
      provides: ["store"],
      setup: (face) => face.provide("store", local),
    };
    const options = { ...INVITED, issuers: [issuer.peerId] };
    const nodes = [await wiredNode([share, trust(options)]), await wiredNode([{ ...share }, trust(options)])];
    const token = invitation(nodes[0] as WiredNode, {}, issuer);
    const peers = nodes.map((node) => rawPeer(node));
    for (const peer of peers) peer.hello({ invites: [token] });
    await quiet();
    expect(peers.map(({ closed }) => closed === undefined).toSorted()).toEqual([false, true]);
  });

  describe("in a store that several nodes share", () => {
    const issuer = openIdentity();

    interface Shared extends Omit<Store, "values"> {
      values: Storage;
      down: boolean;
    }

    /** Nodes that share one, which a test may break. */
    async function sharing(count: number): Promise<{ nodes: WiredNode[]; store: Shared }> {
      const local = openLocal({ config: {}, runtime: systemRuntime } as never);
      onTestFinished(() => local.close());
      const store: Shared = { ...local, down: false };
      const guardedBy = <T extends object>(of: T): T =>
        new Proxy(of, {
          get: (target, name) =>
            store.down ? () => Promise.reject(new AimoError("OVERLOADED", "down")) : Reflect.get(target, name),
        });
      const { lease } = local;
      store.values = guardedBy(local.values);
      store.lease = (...args) => guardedBy({ lease }).lease(...args);
      const share = (): Plugin => ({
        name: "store-test",
        options: {},
        provides: ["store"],
        setup: (face) => face.provide("store", store),
      });
      const options = { provide: { allow: [] }, call: { allow: [] }, issuers: [issuer.peerId] };
      const nodes: WiredNode[] = [];
      for (let i = 0; i < count; i++) nodes.push(await wiredNode([share(), trust(options)]));
      return { nodes, store };
    }

    async function sweep({ runtime }: WiredNode): Promise<void> {
      await runtime.advance(10_000);
      await quiet();
    }

    test("one that two peers came with while it was down is one peer's again", async () => {
      const { nodes, store } = await sharing(2);
      const [near, far] = nodes as [WiredNode, WiredNode];
      const token = invitation(near, {}, issuer);
      store.down = true;
      const [a, b] = [await comes(near, [token]), await comes(far, [token])];
      expect([a.closed, b.closed]).toEqual([undefined, undefined]);
      store.down = false;
      await sweep(near);
      await sweep(far);
      expect((await comes(far, undefined, a.identity)).closed).toBeUndefined();
      expect(told(await comes(far, [token], b.identity))).toContain("was redeemed by another node");
    });

    test("one that was revoked is not redeemed by an advert that comes before that is known", async () => {
      const { nodes } = await sharing(2);
      const [near, far] = nodes as [WiredNode, WiredNode];
      const friend = openIdentity();
      const token = invitation(near, { peer: friend.peerId }, issuer);
      await near.node.use("trust").revoke(token);
      const facts = { peer: friend.peerId, start: 1, seq: 1, ttl: 30_000, timestamp: Math.round(far.runtime.now()) };
      const offers = [{ provider: "p", models: [{ id: "m", types: ["openai.chat"] }] }];
      const advert = makeAdvert({ ...facts, status: "healthy", invites: [token] }, offers, friend);
      await far.node.register(advert).catch(() => undefined);
      await quiet();
      expect(offered(far)).toEqual([]);
      await sweep(near);
      await sweep(far);
      expect(told(await comes(near, [token], friend))).toContain("was revoked");
      expect(told(await comes(far, [token], friend))).toContain("was revoked");
    });

    test("one that is redeemed at this very moment is revoked nevertheless", async () => {
      const { nodes, store } = await sharing(1);
      const [node] = nodes as [WiredNode];
      const token = invitation(node, {}, issuer);
      const { promise, resolve } = Promise.withResolvers<void>();
      const { setItem } = store.values;
      store.values = {
        ...store.values,
        setItem: async (key: string, value: never) => (await promise, setItem(key, value)),
      };
      const peer = rawPeer(node);
      peer.hello({ invites: [token] });
      await quiet();
      const revoked = node.node.use("trust").revoke(token);
      await quiet();
      resolve();
      await revoked;
      await quiet();
      await node.runtime.advance(1_000);
      expect(told(peer)).toContain("was revoked");
      expect(await store.values.getItem(`trust:${readInvitation(token)?.id}`)).toMatchObject({
        peer: peer.identity.peerId,
        revoked: true,
      });
    });
  });

  test("is sent to its issuer alone, with a name on it to all, and at most four of them", async () => {
    const far = await guarded({});
    const me = openIdentity();
    const dataDir = folder();
    const probe = openIdentity(dataDir);
    const open = invitation(far);
    const named = Array.from({ length: 5 }, () => invitation(far, { peer: probe.peerId }, me));
    const node = await wiredNode([trust({ invites: [open, ...named] })], { dataDir });
    const told = async (identity: Identity): Promise<unknown> => {
      const peer = rawPeer(node, { identity });
      await quiet();
      return decodeHead(Type.HELLO, peer.of("HELLO")[0]?.body as Uint8Array)["invites"];
    };
    expect(await told(openIdentity())).toEqual(named.slice(0, 4));
    expect(decode(node.node.advert.blob)).toMatchObject({ invites: named.slice(0, 4) });
    expect(await told(far.node.identity)).toEqual([open, ...named.slice(0, 3)]);
  });

  test("that has ended does not take the place of one that has not", async () => {
    const far = await guarded();
    const ended = Array.from({ length: 4 }, () => invitation(far, { until: 1 }));
    const token = invitation(far);
    const node = await wiredNode([trust({ invites: [...ended, token] })]);
    const peer = rawPeer(node, { identity: far.node.identity });
    await quiet();
    const [hello] = peer.of("HELLO");
    expect(decodeHead(Type.HELLO, hello?.body as Uint8Array)["invites"]).toEqual([token, ...ended.slice(0, 3)]);
  });
});

describe("what is no good invitation is passed over, with the reason", () => {
  const flawed = (token: string, change: (bytes: Buffer) => void): string => {
    const bytes = Buffer.from(token.slice("aimo-invite-".length), "base64url");
    change(bytes);
    return `aimo-invite-${bytes.toString("base64url")}`;
  };
  const domainless = (node: WiredNode): string => {
    const facts = { v: 1, issuer: node.node.id, roles: ["provide"], until: Math.round(node.runtime.now()) + DAY };
    const blob = encode({ ...facts, nonce: randomBytes(16) });
    return `aimo-invite-${Buffer.concat([blob, node.node.identity.sign(blob)]).toString("base64url")}`;
  };
  test.each<[string, (node: WiredNode) => unknown, RegExp]>([
    [
      "forged",
      (node) => flawed(invitation(node), (bytes) => void (bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1)),
      /not signed/,
    ],
    [
      "altered",
      (node) => flawed(invitation(node, { label: "aaaa" }), (bytes) => void bytes.write("b", bytes.indexOf("aaaa"))),
      /not signed/,
    ],
    ["signed as something else", domainless, /not signed/],
    ["expired", (node) => invitation(node, { until: Math.round(node.runtime.now()) }), /has expired/],
    ["too long", (node) => `${invitation(node)}${"A".repeat(1_024)}`, /is none/],
    ["spelt in another way", (node) => `${invitation(node)}=`, /is none/],
    ["cut", (node) => invitation(node).slice(0, 100), /is none/],
    ["garbage", () => "aimo-invite-" + "x".repeat(500), /is none/],
    ["no text", () => 7, /is none/],
    ["nothing", () => null, /is none/],
  ])("%s", async (_, make, why) => {
    const node = await guarded();
    expect(told(await comes(node, [make(node)]))).toMatch(why);
    expect([remotes(node), offered(node), node.errors]).toEqual([[], [], []]);
    expect((await comes(node, [make(node), invitation(node)])).closed).toBeUndefined();
  });

  test.each<[string, unknown]>([
    ["no list", "aimo-invite-"],
    ["a map", { a: 1 }],
    ["more than four", ["1", "2", "3", "4", "5"]],
  ])("%s", async (_, sent) => {
    const node = await guarded();
    expect(told(await comes(node, sent))).toContain("no list of at most 4");
    expect(node.errors).toEqual([]);
  });
});

test("a flood of forged invitations costs no more than 200 checks a second, of one peer no more than 8, and one log line each", async () => {
  const lines: string[] = [];
  const log: Plugin = {
    name: "observer-lines",
    options: {},
    provides: ["log"],
    setup: (face) =>
      face.provide("log", (level, message, fields) => void lines.push(`${level} ${message} ${fields["peer"]}`)),
  };
  const node = await guarded(INVITED, undefined, [log]);
  let checks = 0;
  const { verify } = node.node.identity;
  Object.assign(node.node.identity, {
    verify: (...args: Parameters<Identity["verify"]>) => (checks++, verify(...args)),
  });
  const [mallory, ...others] = Array.from({ length: 100 }, () => openIdentity());
  const forged = Array.from({ length: 4 }, () => {
    const bytes = Buffer.from(invitation(node).slice("aimo-invite-".length), "base64url");
    bytes.fill(0, bytes.length - 64);
    return `aimo-invite-${bytes.toString("base64url")}`;
  });
  const flood = (identity: Identity): void => {
    const peer = rawPeer(node, { identity });
    peer.hello({ invites: forged });
    expect(peer.closed).toBeDefined();
  };
  for (let i = 0; i < 500; i++) flood(mallory as Identity);
  expect(checks).toBe(8);
  expect(lines).toEqual([`warn a peer is refused ${mallory?.peerId}`]);
  const friend = rawPeer(node);
  friend.hello({ invites: [invitation(node)] });
  await quiet();
  expect(friend.closed).toBeUndefined();
  for (const other of others) flood(other);
  expect(checks).toBe(200);
  await node.runtime.advance(1_000);
  expect((await comes(node, [invitation(node)])).closed).toBeUndefined();
});

test("forged invitations in adverts, which anybody may send in any name, leave room for those who come themselves", async () => {
  const node = await guarded();
  for (let i = 0; i < 300; i++) {
    const { peerId: peer, sign } = openIdentity();
    const invites = [invitation(node, { peer }).slice(0, -4) + "AAAA"];
    const facts = { peer, start: 1, seq: 1, ttl: 30_000, timestamp: Math.round(node.runtime.now()), load: 0 };
    const { blob, signature } = makeAdvert({ ...facts, status: "healthy", invites }, [], { sign } as Identity);
    await expect(node.node.register({ blob, signature })).rejects.toMatchObject({ code: "FORBIDDEN" });
  }
  expect((await comes(node, [invitation(node)])).closed).toBeUndefined();
});

describe("adverts that come through others", () => {
  /** A gateway that wants invitations, and a provider, with only a relay between them. */
  async function apart(invited: (gateway: WiredNode, peer: string) => string[]): Promise<[WiredNode, WiredNode]> {
    const dataDir = folder();
    const gateway = await guarded({ provide: { allow: [] } });
    const relay = await wiredNode([], { relay: true });
    const invites = invited(gateway, openIdentity(dataDir).peerId);
    const far = await wiredNode([provider("far", whole('{"a":1}'), ["theirs"]), trust({ invites })], { dataDir });
    connect(relay, far);
    connect(gateway, relay);
    await quiet();
    await pass(1_200, gateway, relay, far);
    return [gateway, far];
  }

  test("of a node without an invitation are not taken", async () => {
    const [gateway] = await apart(() => []);
    expect(offered(gateway)).toEqual([]);
  });

  test("with an invitation for whoever has it are not: all could read it on the way", async () => {
    const [gateway] = await apart((from) => [invitation(from)]);
    expect(offered(gateway)).toEqual([]);
  });

  test("with an invitation for their very node are, and it answers", async () => {
    const [gateway, far] = await apart((from, peer) => [invitation(from, { peer, roles: ["provide"] })]);
    expect(offered(gateway)).toEqual([far.node.id]);
    expect((await collect(gateway.node, chat("theirs"))).text).toBe('{"a":1}');
    expect([...gateway.node.use("trust").invited]).toMatchObject([{ peer: far.node.id }]);
  });

  test("are not taken with a stolen invitation in them, and it stays good for another", async () => {
    const node = await guarded({ provide: { allow: [] } });
    const token = invitation(node);
    const thief = openIdentity();
    const facts = { peer: thief.peerId, start: 1, seq: 1, ttl: 30_000, timestamp: Math.round(node.runtime.now()) };
    const models = [{ id: "stolen", types: ["openai.chat"] }];
    const offers = [{ provider: "p", models }];
    const said = { ...facts, status: "healthy" as const, invites: [token] };
    const { blob, signature } = makeAdvert(said, offers, thief);
    await expect(node.node.register({ blob, signature })).rejects.toMatchObject({ code: "FORBIDDEN" });
    const friend = await comes(node, [token]);
    expect(offered(node)).toEqual([friend.identity.peerId]);
  });

  test("and that were broadcast are judged in the same way, before their signature is looked at", async () => {
    const node = await guarded({ provide: { allow: [] } });
    const far = await wiredNode([provider("p", silent)]);
    await expect(node.node.register(far.node.advert)).rejects.toMatchObject({
      code: "FORBIDDEN",
      message: expect.stringContaining("Only nodes that were invited") as string,
    });
    const forged = { ...far.node.advert, signature: new Uint8Array(64) };
    await expect(node.node.register(forged)).rejects.toMatchObject({ code: "FORBIDDEN" });
  });

  test("of a denied node are not passed on by a relay", async () => {
    const far = await wiredNode([provider("p", silent)]);
    const relay = await wiredNode([trust({ provide: { deny: [far.node.id] } })], { relay: true });
    const near = await wiredNode();
    connect(relay, far);
    connect(near, relay);
    await quiet();
    await pass(1_200, near, relay, far);
    expect([offered(relay), offered(near)]).toEqual([[], []]);
  });
});

describe("a reload", () => {
  const reloaded = ({ node }: WiredNode, options: TrustOptions): Promise<readonly string[]> => {
    const plugins = [...node.config.plugins].map((plugin) =>
      (plugin as Plugin).name === "guard-trust" ? trust(options) : plugin,
    );
    return node.reload({ plugins, timeouts: { resume: 0 }, drain: 0 });
  };

  test("that denies a provider takes its targets at once; its running call ends as it would", async () => {
    const go = Promise.withResolvers<void>();
    const far = await wiredNode([
      provider(
        "far",
        async (_, reply) => {
          await reply.chunk("one ");
          await go.promise;
          reply.end({ body: "two" });
        },
        ["theirs"],
      ),
    ]);
    const node = await guarded({});
    const wire = connect(node, far);
    await quiet();
    expect(offered(node)).toEqual([far.node.id]);
    const running = collect(node.node, chat("theirs", { stream: true }));
    await quiet();
    const list = { deny: [far.node.id] };
    expect(await reloaded(node, { provide: list, call: list })).toEqual(["guard-trust: provide, call"]);
    expect(offered(node)).toEqual([]);
    expect((await collect(node.node, chat("theirs"))).outcome.error?.code).toBe("NO_PROVIDER");
    await pass(1_000, node, far);
    expect(wire.open).toBe(true);
    go.resolve();
    expect((await running).text).toBe("one two");
    await pass(1_000, node, far);
    expect([wire.open, remotes(node)]).toEqual([false, []]);
  });

  test("that denies a relay has no new call go through it, while one still does", async () => {
    const go = Promise.withResolvers<void>();
    const slow = provider("far", (_, reply) => go.promise.then(() => void reply.send("done")), ["theirs"]);
    const [far, relay, node] = [await wiredNode([slow]), await wiredNode([], { relay: true }), await guarded({})];
    connect(relay, far);
    const wire = connect(node, relay);
    await quiet();
    await pass(1_200, node, relay, far);
    const running = collect(node.node, chat("theirs"));
    await quiet();
    const list = { deny: [relay.node.id] };
    await reloaded(node, { provide: list, call: list });
    const asked = wire.seen.filter(({ message }) => message?.type === Type.REQUEST).length;
    expect((await collect(node.node, chat("theirs"))).outcome.error?.code).toBe("NETWORK_ERROR");
    expect(wire.seen.filter(({ message }) => message?.type === Type.REQUEST)).toHaveLength(asked);
    go.resolve();
    expect((await running).text).toBe("done");
  });

  test("that gives a node an invitation has it say so", async () => {
    const gateway = await guarded({ provide: { allow: [] } });
    const far = await wiredNode([provider("far", silent, ["theirs"]), trust({})]);
    const wire = connect(gateway, far);
    await quiet();
    expect(offered(gateway)).toEqual([]);
    expect(far.errors.map(({ code, message }) => [code, message])).toEqual([
      ["FORBIDDEN", expect.stringContaining(`${gateway.node.id} does not take what this node offers`)],
    ]);
    await reloaded(far, { invites: [invitation(gateway)] });
    await pass(1_000, gateway, far);
    expect(wire.open).toBe(false);
    connect(gateway, far);
    await quiet();
    expect(offered(gateway)).toEqual([far.node.id]);
  });
});

test("what a peer says while its invitation is looked up is kept for it, up to 1 MiB", async () => {
  const asked: (() => void)[] = [];
  const slow: Plugin = {
    name: "guard-slow",
    hooks: { "peer:admit": () => new Promise((resolve) => asked.push(resolve)) },
  };
  const node = await wiredNode([slow, provider("p", whole("{}"))]);
  const early = rawPeer(node);
  early.hello();
  early.ask(1, { head: { model: "m" } });
  await quiet();
  expect([early.of("ALIVE"), remotes(node)]).toEqual([[], []]);
  asked.shift()?.();
  await quiet();
  expect(early.of("END")).toHaveLength(1);

  const flood = rawPeer(node);
  flood.hello();
  for (let i = 0; i < 17; i++) flood.say("DATA", { call: 1, flags: ["OPENER"], body: Buffer.alloc(65_536) });
  await quiet();
  expect(flood.closed?.error?.code).toBe("OVERLOADED");
  asked.shift()?.();
  await quiet();
  expect(remotes(node)).toEqual([early.identity.peerId]);
});

test("what was asked before the config changed is asked again before the peer is let in", async () => {
  const asked: (() => void)[] = [];
  const slow: Plugin = {
    name: "guard-slow",
    options: {},
    hooks: { "peer:admit": () => new Promise((resolve) => asked.push(resolve)) },
  };
  const node = await wiredNode([slow, provider("p", whole("{}"))]);
  const peer = rawPeer(node);
  peer.hello();
  peer.ask(1, { head: { model: "m" } });
  await quiet();
  const list = { deny: [peer.identity.peerId] };
  await node.node.reload({ plugins: [...node.node.config.plugins, trust({ provide: list, call: list })], drain: 0 });
  asked.shift()?.();
  await quiet();
  asked.shift()?.();
  await quiet();
  expect([told(peer), remotes(node), peer.of("ALIVE")]).toEqual(["This peer may not call this node.", [], []]);
});

test("of two reviews that overtake each other the later one counts", async () => {
  const asked: PromiseWithResolvers<void>[] = [];
  const slow: Plugin = {
    name: "guard-slow",
    hooks: {
      "peer:admit"() {
        const answer = Promise.withResolvers<void>();
        asked.push(answer);
        return answer.promise;
      },
    },
  };
  const node = await wiredNode([slow]);
  const peer = rawPeer(node);
  peer.hello();
  asked[0]?.resolve();
  await quiet();
  node.node.review();
  node.node.review();
  asked[2]?.reject(new AimoError("FORBIDDEN", "not any more"));
  await quiet();
  asked[1]?.resolve();
  await quiet();
  await node.runtime.advance(1_000);
  expect(told(peer)).toBe("not any more");
});

test("a refused peer does not keep its link by calls that it makes over and over", async () => {
  const node = await guarded({});
  const peer = await comes(node);
  const list = { deny: [peer.identity.peerId] };
  peer.ask(1, { head: { model: "m" } });
  await quiet();
  await node.node.reload({
    plugins: [...node.node.config.plugins].map((plugin) =>
      (plugin as Plugin).name === "guard-trust" ? trust({ provide: list, call: list }) : plugin,
    ),
    drain: 0,
  });
  for (let number = 2; number < 60 && !peer.closed; number++) {
    peer.ask(number, { head: { model: "m" } });
    peer.say("PING", { body: Buffer.alloc(8) });
    await node.runtime.advance(1_000);
  }
  expect(told(peer)).toBe("This peer may not call this node.");
  const [error] = peer.of("ERROR");
  expect(error && decodeHead(Type.ERROR, error.body)).toMatchObject({ code: "forbidden", retryable: false });
});
