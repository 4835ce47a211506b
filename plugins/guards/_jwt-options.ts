import { createLocalJWKSet, type JSONWebKeySet } from "jose";
import { z } from "zod";
import type { JwtOptions } from "./jwt.ts";

/** Algorithms with a key pair. */
export const PUBLIC = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519".split(" ");
const SHARED = ["HS256", "HS384", "HS512"];

const texts = z.array(z.string().min(1)).min(1, "must name at least one").optional();
export const schema = z
  .strictObject({
    // Else it would not be clear where the issuer ends in a client's name.
    issuer: z.string().regex(/^[^#\s]+$/, "must be what tokens have in `iss`, such as https://id.example/realms/main"),
    audience: z.union([
      z
        .string()
        .min(1)
        .transform((one) => [one]),
      z.array(z.string().min(1)).min(1, "must name at least one"),
    ]),
    name: z
      .string()
      .regex(/^[A-Za-z0-9][\w.-]*$/, "must consist of letters, digits, dots and dashes")
      .optional(),
    jwks: z
      .union([
        z.url({ protocol: /^https?$/, error: "must be a URL or a JSON Web Key Set" }),
        z.custom<JSONWebKeySet>(isPublic, "must be a URL, or a JSON Web Key Set of public keys"),
      ])
      .optional(),
    secret: z.string().min(32, "must have at least 32 characters").optional(),
    algorithms: z
      .array(z.enum([...PUBLIC, ...SHARED]))
      .min(1, "must name at least one")
      .optional(),
    skew: z.number().int().nonnegative().default(60_000),
    scopes: z.strictObject({ call: texts, read: texts, admin: texts }).default({}),
    client: z.string().min(1).default("sub"),
    allowance: z
      .custom<NonNullable<JwtOptions["allowance"]>>((value) => typeof value === "function", "must be a function")
      .optional(),
  })
  .check(
    z.refine(({ jwks, secret }) => jwks === undefined || secret === undefined, {
      path: ["secret"],
      error: "leave it out, or `jwks`: tokens are signed with one or the other",
    }),
    z.refine(
      ({ algorithms = [], secret }) => algorithms.every((each) => SHARED.includes(each) === (secret !== undefined)),
      {
        path: ["algorithms"],
        error: "HS… is for tokens with a `secret`, and for those alone",
      },
    ),
    z.refine(
      ({ issuer, jwks, secret }) => jwks ?? secret ?? z.url({ protocol: /^https?$/ }).safeParse(issuer).success,
      {
        path: ["jwks"],
        error: "must say where the keys are: the issuer is no URL",
      },
    ),
  );

export type Given = z.output<typeof schema>;

function isPublic(value: unknown): boolean {
  try {
    createLocalJWKSet(value as JSONWebKeySet);
    return (value as JSONWebKeySet).keys.every((key) => key.kty !== "oct" && !("d" in key));
  } catch {
    return false;
  }
}
