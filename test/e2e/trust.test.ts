import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { post, readStream, streaming } from "../kit/client.ts";
import { IMPORTS, projectFolder } from "../kit/config.ts";
import { dataDir, listed, startConfig, startGateway, startProvider } from "../kit/nodes.ts";
import { runAimo, startAimo, type AimoProcess } from "../kit/process.ts";
import { createUpstream, DONE, event, hang } from "../kit/upstream.ts";

const WHOLE = { content: "Hello world", errors: [], done: true };
const ask = async ({ api }: AimoProcess): Promise<unknown> => readStream((await post(api, streaming()).got()).body);

/** A token of the node with this data dir. */
async function invite(data: string, ...flags: string[]): Promise<string> {
  const { stdout, code } = await runAimo(["invite", "--data-dir", data, ...flags]);
  expect(code).toBe(0);
  return stdout.trim();
}

async function peerOf(data: string): Promise<string> {
  const { stdout } = await runAimo(["keygen", "--data-dir", data, "--json"]);
  return (JSON.parse(stdout) as { peerId: string }).peerId;
}

/** It was told that its models are not taken. */
const refused = (node: AimoProcess, why: string): Promise<unknown> =>
  node.waitFor(({ event: name, message }) => name === "node:error" && String(message).includes(why));

describe("a gateway that wants invitations", () => {
  it("takes no models of a provider that has none, and says why; with one it serves, alone, beyond a restart", async () => {
    const upstream = await createUpstream();
    const data = dataDir();
    const args = ["--invited", "--data-dir", data];
    const gateway = await startGateway(args);
    const theirs = dataDir();
    const stranger = await startProvider(gateway, upstream.url, ["--data-dir", theirs]);
    await refused(
      stranger,
      `${gateway.ready.peerId} does not take what this node offers: Only nodes that were invited`,
    );
    await stranger.said("ask for an invitation (`aimo invite`)");
    const shown = await runAimo(["peers", "--node", theirs]);
    expect(shown.stdout).toContain("does not take what this node offers: Only nodes that were invited");
    const doctor = await runAimo(["doctor", "--no-tokens", "--node", theirs]);
    expect(doctor.code).toBe(1);
    expect(doctor.stdout).toMatch(/^FAILED {2}offer .*\n {10}\w+ does not take what this node offers: .*--invite\.$/m);

    const token = await invite(data, "--label", "machine room");
    const own = dataDir();
    const friend = await startProvider(gateway, upstream.url, ["--invite", token, "--data-dir", own]);
    await listed(gateway, friend);
    expect(await ask(gateway)).toEqual(WHOLE);

    const thief = await startProvider(gateway, upstream.url, ["--invite", token]);
    await refused(thief, "was redeemed by another node");
    const added = gateway.seen.flatMap(({ event: name, ...rest }) =>
      name === "catalog:change" ? (rest["added"] as string[]) : [],
    );
    expect(added).toEqual([`${friend.ready.peerId}/openai/test-model`]);
    for (const node of [gateway, stranger, friend, thief])
      expect(node.stderr + JSON.stringify(node.seen)).not.toContain(token.slice(12, 60));

    await gateway.stop();
    const again = await startGateway([
      ...args,
      "--listen",
      (gateway.ready.listen[0] as string).split("/p2p/")[0] as string,
    ]);
    await listed(again, friend);
    expect(await ask(again)).toEqual(WHOLE);
  });

  it("lists who came with them, and takes one back: its provider serves no more", async () => {
    const upstream = await createUpstream();
    const data = dataDir();
    const gateway = await startGateway(["--invited", "--data-dir", data]);
    const token = await invite(data, "--label", "machine room", "--expires", "2d");
    const friend = await startProvider(gateway, upstream.url, ["--invite", token]);
    await listed(gateway, friend);
    const shown = await runAimo(["invite", "--list", "--node", data]);
    expect(shown.stdout).toMatch(/machine room/);
    expect(shown.stdout).toContain(friend.ready.peerId);
    const { data: all } = JSON.parse((await runAimo(["invite", "--list", "--json", "--node", data])).stdout) as {
      data: { id: string }[];
    };
    const revoked = await runAimo(["invite", "--revoke", all[0]?.id as string, "--node", data]);
    expect(revoked).toMatchObject({ code: 0, stdout: expect.stringContaining("Revoked") as string });
    await gateway.waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0);
    await refused(friend, "does not take what this node offers");
    expect((await post(gateway.api, streaming()).got()).status).toBe(503);
  });

  it.each([
    ["pubsub alone", ["--disable", "transport-stream"]],
    ["a gateway between them that only passes gossip on", []],
  ])("takes an invited provider over %s", async (_, flags) => {
    const upstream = await createUpstream();
    const [data, own] = [dataDir(), dataDir()];
    const between = flags.length === 0 ? await startGateway() : undefined;
    const gateway = await startGateway([
      "--invited",
      "--data-dir",
      data,
      ...flags,
      ...(between ? ["--join", between.ready.listen[0] as string] : []),
    ]);
    const at = between ?? gateway;
    const stranger = await startProvider(at, upstream.url, ["--models", "strange", ...flags]);
    const token = await invite(data, "--for", await peerOf(own));
    const friend = await startProvider(at, upstream.url, ["--invite", token, "--data-dir", own, ...flags]);
    await listed(gateway, friend);
    expect(await ask(gateway)).toEqual(WHOLE);
    expect(JSON.stringify(gateway.seen)).not.toContain(`${stranger.ready.peerId}/openai`);
  });

  it("takes an invited provider behind a relay that was invited, too", async () => {
    const upstream = await createUpstream();
    const [data, own] = [dataDir(), dataDir()];
    await peerOf(data);
    const guest = await invite(data);
    const relay = await startConfig(
      `plugins: [libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream(), trust({ invites: ["${guest}"] })], relay: true`,
      { lines: 'import { trust } from "aimo/guards";' },
    );
    const gateway = await startGateway(["--invited", "--data-dir", data, "--join", relay.ready.listen[0] as string]);
    const stranger = await startProvider(relay, upstream.url);
    await listed(relay, stranger);
    const token = await invite(data, "--for", await peerOf(own));
    const friend = await startProvider(relay, upstream.url, ["--invite", token, "--data-dir", own]);
    await listed(gateway, friend);
    expect(await ask(gateway)).toEqual(WHOLE);
    expect(JSON.stringify(gateway.seen)).not.toContain(`${stranger.ready.peerId}/openai`);
  });
});

describe("a reload", () => {
  const config = (data: string, trusted: string): string => `${IMPORTS}
import { trust } from "aimo/guards";
export default defineConfig({
  plugins: [
    http({ port: 0 }), openaiApi(), aimoApi(), trust(${trusted}),
    libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] }), stream(), roundRobin(),
  ],
  dataDir: ${JSON.stringify(data)},
});
`;

  it("that denies a provider which serves lets its running call end, gives it no other, and hangs up with the reason", async () => {
    const upstream = await createUpstream();
    const data = dataDir();
    const folder = projectFolder({ "aimo.config.ts": config(data, "{}") });
    const gateway = await startAimo(["start"], { cwd: folder });
    const provider = await startProvider(gateway, upstream.url);
    await listed(gateway, provider);
    upstream.next(hang([event({ content: "Hello" })]));
    const running = post(gateway.api, streaming());
    await running.seen("Hello");
    const exchange = await upstream.request(0);
    const deny = `{ deny: ["${provider.ready.peerId}"] }`;
    writeFileSync(join(folder, "aimo.config.ts"), config(data, `{ provide: ${deny}, call: ${deny} }`));
    gateway.kill("SIGHUP");
    await gateway.waitFor(({ event: name }) => name === "reload");
    await gateway.waitFor((seen) => seen.event === "catalog:change" && (seen["removed"] as string[]).length > 0);
    expect((await post(gateway.api, streaming()).got()).status).toBe(503);
    expect(upstream.requests).toHaveLength(1);
    await exchange.write(event({ content: " world" }));
    exchange.res.end(DONE);
    expect(readStream((await running.got()).body)).toEqual(WHOLE);
    const down = await provider.waitFor(
      ({ event: name, message }) => name === "link:down" && String(message).includes("refused"),
    );
    expect(down["message"]).toContain("This peer may not call this node");
    // It tries again, and is refused again: the gateway's log has one line of it.
    const before = provider.seen.length;
    await provider.waitFor((seen) => seen.event === "link:down" && provider.seen.indexOf(seen) >= before);
    expect(gateway.stderr.match(/a peer is refused/g)).toHaveLength(1);
  });
});

describe("aimo invite", () => {
  it("says in one sentence what it cannot do", async () => {
    const nobody = join(dataDir(), "nowhere");
    const none = await runAimo(["invite", "--data-dir", nobody]);
    expect(none).toMatchObject({ code: 2, stderr: expect.stringContaining("there is no node's key in") as string });
    expect(existsSync(nobody)).toBe(false);
    const data = dataDir();
    await peerOf(data);
    expect((await runAimo(["invite", "--data-dir", data, "--for", "me"])).code).toBe(2);
    expect((await runAimo(["invite", "--data-dir", data, "--expires", "soon"])).code).toBe(2);
  });

  it("tells a program all there is to know of the token", async () => {
    const data = dataDir();
    const issuer = await peerOf(data);
    const { stdout } = await runAimo(["invite", "--data-dir", data, "--call", "--json", "--label", "x"]);
    expect(JSON.parse(stdout)).toMatchObject({
      token: expect.stringMatching(/^aimo-invite-[\w-]{100,1000}$/) as string,
      id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
      issuer,
      roles: ["call"],
      for: null,
      label: "x",
    });
  });
});
