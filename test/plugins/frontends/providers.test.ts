import { expect, describe, it, onTestFinished } from "vitest";
import { createNode, type AimoNode, type Plugin } from "../../../core/index.ts";
import { encodeHead, Type } from "../../../core/wire/codec.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { apiKeys } from "../../../plugins/guards/index.ts";
import { memory } from "../../../plugins/transports/index.ts";
import { provider, whole } from "../../kit/local.ts";

let networks = 0;

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown> & { readonly error?: { readonly code: string; readonly message: string } };
}

async function open(plugins: readonly Plugin[]): Promise<AimoNode> {
  const node = await createNode({ plugins, drain: 0 });
  onTestFinished(() => node.close());
  return node;
}

/** A gateway with a plain client of it. */
async function gateway(...plugins: Plugin[]) {
  const node = await open([http({ port: 0 }), openaiApi(), aimoApi(), ...plugins]);
  const { url } = node.use("http");
  return {
    node,
    async ask(
      path: string,
      body?: string | Uint8Array<ArrayBuffer>,
      headers: Record<string, string> = {},
    ): Promise<Answer> {
      const init = body === undefined ? { headers } : { method: "POST", body, headers };
      const answer = await fetch(`${url}/v1${path}`, init);
      return { status: answer.status, body: (await answer.json()) as Answer["body"] };
    },
    complete: () =>
      fetch(`${url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: "m", messages: [] }) }),
  };
}

const listed = (node: AimoNode): Promise<void> =>
  new Promise((resolve) => node.hook("catalog:change", (added) => void (added.length > 0 && resolve())));
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
const JSON_TYPE = { "content-type": "application/json" };
const signed = ({ advert }: AimoNode): string =>
  JSON.stringify({ blob: base64(advert.blob), signature: base64(advert.signature) });

/** A gateway and two providers of one node, linked. */
async function pair() {
  const network = `providers-${++networks}`;
  const front = await gateway(memory({ network }));
  const arrived = listed(front.node);
  const back = await open([memory({ network }), provider("one", whole("1")), provider("two", whole("2"), ["other"])]);
  await arrived;
  return { ...front, back };
}

describe("GET /v1/providers/:id", () => {
  it("shows what is known of a node: links, targets and their figures, what it said last, what it signed", async () => {
    const { ask, complete, back } = await pair();
    const before = Date.now();
    await (await complete()).text();
    const { status, body } = await ask(`/providers/${back.id}`);
    expect(status).toBe(200);
    expect(body).toEqual({
      id: back.id,
      object: "provider",
      local: false,
      load: 0,
      via: ["memory"],
      since: expect.any(Number) as number,
      targets: [
        {
          id: `${back.id}/one/m`,
          provider: "one",
          model: { id: "m", types: ["openai.chat"] },
          stats: expect.objectContaining({ calls: 1, failures: 0, inFlight: 0 }) as object,
        },
        expect.objectContaining({ id: `${back.id}/two/other`, stats: expect.objectContaining({ calls: 0 }) as object }),
      ],
      advert: {
        at: expect.any(Number) as number,
        timestamp: expect.any(Number) as number,
        status: "healthy",
        ttl: 30_000,
      },
      receipts: { seen: 1, complete: 1, cancelled: 0, failed: 0, bytes: 1, last: expect.any(Number) as number },
    });
    expect(Math.abs((body["since"] as number) - before)).toBeLessThan(60_000);
  });

  it("shows one provider of several by peer/provider", async () => {
    const { ask, back } = await pair();
    const { body } = await ask(`/providers/${back.id}/two`);
    expect(body["targets"]).toMatchObject([{ provider: "two" }]);
  });

  it("shows this node itself, and a peer that offers nothing", async () => {
    const { node, ask, back } = await pair();
    expect((await ask(`/providers/${node.id}`)).body).toMatchObject({
      local: true,
      via: [],
      targets: [],
      advert: null,
    });
    const seenFrom = await gateway(memory({ network: `providers-${networks}` }));
    await listed(seenFrom.node);
    expect((await seenFrom.ask(`/providers/${node.id}`)).body).toMatchObject({
      local: false,
      via: ["memory"],
      targets: [],
    });
    expect((await seenFrom.ask(`/providers/${back.id}`)).status).toBe(200);
  });

  it("is 404 for what is not there", async () => {
    const { ask, back } = await pair();
    for (const id of ["nobody", `${back.id}/three`, "12D3KooWNobody/one", "__proto__"]) {
      const { status, body } = await ask(`/providers/${id}`);
      expect([id, status, body.error?.code]).toEqual([id, 404, "provider_not_found"]);
    }
  });
});

describe("POST /v1/providers/register", () => {
  it("takes the advert that another node's GET /v1/advert gave, as it is", async () => {
    const network = `providers-${++networks}`;
    const to = await gateway(memory({ network }));
    const from = await gateway(memory({ network }), provider("p", whole("1")));
    const advert = await from.ask("/advert");
    expect(advert.body).toMatchObject({ object: "advert", peer: from.node.id });
    const { status, body } = await to.ask("/providers/register", JSON.stringify(advert.body), JSON_TYPE);
    expect(status).toBe(200);
    expect(body).toMatchObject({ id: from.node.id, via: ["memory"], targets: [{ id: `${from.node.id}/p/m` }] });
    expect(await (await to.complete()).text()).toBe("1");
  });

  it("takes it as the message that nodes send each other, too", async () => {
    const { ask, back } = await pair();
    const message = Uint8Array.from(encodeHead(Type.ADVERT, 0, 0, { ...back.advert, path: [] }));
    const { status, body } = await ask("/providers/register", message);
    expect([status, body["id"]]).toEqual([200, back.id]);
  });

  it("refuses a node that it cannot reach, and lists nothing of it", async () => {
    const far = await open([memory({ network: `providers-${++networks}` }), provider("p", whole("1"))]);
    const { node, ask } = await gateway(memory({ network: `providers-${++networks}` }));
    const { status, body } = await ask("/providers/register", signed(far), JSON_TYPE);
    expect([status, body.error?.code]).toEqual([502, "network_error"]);
    expect([...node.targets]).toEqual([]);
    expect((await ask(`/providers/${far.id}`)).status).toBe(404);
  });

  it("refuses what is forged, what is its own, and what is no advert", async () => {
    const { node, ask } = await pair();
    const far = await open([provider("p", whole("1"))]);
    const forged = JSON.stringify({ blob: base64(far.advert.blob), signature: base64(node.advert.signature) });
    const ping = Uint8Array.from(encodeHead(Type.DRAIN, 0, 0, { retryAfterMs: 1 }));
    const cases: [string | Uint8Array<ArrayBuffer>, Record<string, string>, number][] = [
      [forged, JSON_TYPE, 401],
      [signed(node), JSON_TYPE, 403],
      ["{", JSON_TYPE, 400],
      ['{"blob":"!","signature":"AA=="}', JSON_TYPE, 400],
      ['{"blob":"AA==","signature":"AA=="}', JSON_TYPE, 400],
      [Uint8Array.of(1, 2, 3), {}, 400],
      [ping, {}, 400],
    ];
    for (const [body, headers, expected] of cases)
      expect([body, (await ask("/providers/register", body, headers)).status]).toEqual([body, expected]);
  });

  it("is for admins", async () => {
    const keys = { keys: ["sk-of-a-client"], admin: ["sk-of-an-admin"] };
    const network = `providers-${++networks}`;
    const { node, ask } = await gateway(memory({ network }), apiKeys(keys));
    const arrived = listed(node);
    const back = await open([memory({ network }), provider("p", whole("1"))]);
    await arrived;
    const as = async (key: string): Promise<number> =>
      (await ask("/providers/register", signed(back), { ...JSON_TYPE, authorization: `Bearer ${key}` })).status;
    expect([await as("sk-of-nobody"), await as("sk-of-a-client"), await as("sk-of-an-admin")]).toEqual([401, 403, 200]);
  });
});
