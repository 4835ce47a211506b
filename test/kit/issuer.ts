import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  exportJWK,
  exportSPKI,
  generateKeyPair,
  SignJWT,
  type CryptoKey,
  type JWK,
  type JWTHeaderParameters,
} from "jose";
import { onTestFinished } from "vitest";

export interface SigningKey {
  readonly kid: string;
  readonly alg: string;
  readonly secret: CryptoKey;
  readonly jwk: JWK;
  /** SPKI */
  readonly pem: string;
}

/** An identity provider: signs tokens, and serves its keys over HTTP. */
export interface Issuer {
  readonly url: string;
  readonly jwks: string;
  /** Those that it publishes. */
  keys: SigningKey[];
  /** In place of its own answer. */
  answer: ((req: IncomingMessage, res: ServerResponse) => void) | undefined;
  /** Paths that it was asked for. */
  readonly asked: string[];
  /** Its first key signs, if none is given; good for five minutes, unless the claims say otherwise. */
  token(claims?: object, header?: Partial<JWTHeaderParameters>, key?: SigningKey): Promise<string>;
  /** Takes no connections any more, until it is told to. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

export const AUDIENCE = "https://aimo.example";

export async function signingKey(kid: string, alg = "ES256"): Promise<SigningKey> {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid, alg, use: "sig" };
  return { kid, alg, secret: privateKey, jwk, pem: await exportSPKI(publicKey) };
}

/** Ends with the test. */
export async function issuer(...keys: SigningKey[]): Promise<Issuer> {
  const asked: string[] = [];
  const server = createServer((req, res) => {
    asked.push(req.url ?? "");
    if (it.answer) return it.answer(req, res);
    const found: Record<string, object> = {
      "/keys": { keys: it.keys.map(({ jwk }) => jwk) },
      "/.well-known/openid-configuration": { issuer: it.url, jwks_uri: it.jwks },
    };
    const body = found[req.url ?? ""];
    res.writeHead(body ? 200 : 404, { "content-type": "application/json" }).end(JSON.stringify(body ?? {}));
  });
  let port = 0;
  const it: Issuer = {
    get url() {
      return `http://127.0.0.1:${port}`;
    },
    get jwks() {
      return `http://127.0.0.1:${port}/keys`;
    },
    keys: keys.length > 0 ? keys : [await signingKey("first")],
    answer: undefined,
    asked,
    token(claims = {}, header = {}, key = it.keys[0] as SigningKey) {
      const now = Math.floor(Date.now() / 1_000);
      return new SignJWT({ iss: it.url, aud: AUDIENCE, sub: "alice", iat: now, exp: now + 300, ...claims })
        .setProtectedHeader({ alg: key.alg, kid: key.kid, ...header })
        .sign(key.secret);
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
    start: () =>
      new Promise((resolve) => {
        server.listen(port, "127.0.0.1", () => {
          ({ port } = server.address() as AddressInfo);
          resolve();
        });
      }),
  };
  await it.start();
  onTestFinished(() => it.stop());
  return it;
}
