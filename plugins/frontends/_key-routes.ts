import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import {
  decodeKey,
  encodeKey,
  isBase58,
  isSignedBy,
  metadataBytes,
  scopeNames,
  scopesOf,
  type KeyMetadata,
  type WalletKey,
} from "../guards/_wallet-key.ts";
import type { About, ToldSchema } from "./_about.ts";
import type { Exchange } from "./http.ts";

const base58 = (bytes: number) =>
  z.string().refine((text) => isBase58(text, bytes), `must be ${bytes} bytes in base58`);
const count = z.number("must be a whole number").int("must be a whole number").nonnegative("must not be below 0");
const metadata = z.object({
  created_at: count,
  valid_for: count,
  usage_limit: count,
  scopes: z.array(z.string()),
});
const toSign = z.object({ metadata });
const toEncode = z.object({
  payload: z.object({
    version: z.literal(1),
    wallet: z.literal("solana"),
    signer: base58(32),
    signature: base58(64),
    metadata,
  }),
});
const toVerify = z.object({ secret_key: z.string() });
const toRevoke = z.object({ signer: base58(32), signature: base58(64), secret_key: z.string() });

/** Keys of wallets, in the forms of the forerunner. Making one takes the wallet, checking one the key, revoking one both. */
export function mountKeyRoutes(node: AimoNode): void {
  const { mount } = node.use("http");
  const keys = node.use("walletKeys");
  const bytesToSign = async ({ json }: Exchange): Promise<number[]> => [
    ...metadataBytes(fromTold((await json(toSign)).metadata)),
  ];
  // Not every client can send a body with GET.
  for (const method of ["GET", "POST"] as const)
    mount(method, "/api/v1/keys/metadata_bytes", "public", bytesToSign, about("The bytes that a wallet signs", toSign));

  mount(
    "POST",
    "/api/v1/keys/generate",
    "public",
    async ({ json }) => {
      const { signer: wallet, signature, metadata: told } = (await json(toEncode)).payload;
      return { secret_key: encodeKey({ tag: "dev", wallet, signature, metadata: fromTold(told) }) };
    },
    about("Spells a key that a wallet has signed", toEncode),
  );

  mount(
    "POST",
    "/api/v1/keys/verify",
    "public",
    async ({ json }) => {
      const { secret_key } = await json(toVerify);
      const payload = toTold(decoded(secret_key));
      try {
        keys.check(secret_key);
        return { result: true, reason: null, payload };
      } catch (error) {
        return { result: false, reason: AimoError.from(error).message, payload };
      }
    },
    about("Is a key good here, and what does it say", toVerify),
  );

  mount(
    "POST",
    "/api/v1/keys/revoke",
    "public",
    async ({ json }) => {
      const { signer, signature, secret_key } = await json(toRevoke);
      if (!isSignedBy(signer, Buffer.from(secret_key), signature))
        throw new AimoError("UNAUTHORIZED", "The signature is not that of the signer over the text of the key.");
      if (decoded(secret_key).wallet !== signer)
        throw new AimoError("UNAUTHORIZED", "The key is not of the wallet that signed.");
      keys.revoke(secret_key);
      return {};
    },
    about("Ends a key; signed by its wallet", toRevoke),
  );
}

function about(summary: string, body: ToldSchema): About {
  return { summary, body: { "application/json": body } };
}

/** What cannot be read is here the request's fault, and not that of who sent it. */
function decoded(text: string): WalletKey {
  try {
    return decodeKey(text);
  } catch (error) {
    throw new AimoError("INVALID_MESSAGE_FORMAT", AimoError.from(error).message, { param: "secret_key" });
  }
}

function fromTold({ created_at, valid_for, usage_limit, scopes }: z.infer<typeof metadata>): KeyMetadata {
  return {
    createdAt: BigInt(created_at),
    validFor: BigInt(valid_for),
    usageLimit: BigInt(usage_limit),
    scopes: scopesOf(scopes),
  };
}

function toTold({ version, wallet: signer, signature, metadata: told }: WalletKey): object {
  const { createdAt, validFor, usageLimit, scopes } = told;
  return {
    version,
    wallet: "solana",
    signer,
    signature,
    metadata: {
      created_at: Number(createdAt),
      valid_for: Number(validFor),
      usage_limit: Number(usageLimit),
      scopes: scopeNames(scopes),
    },
  };
}
