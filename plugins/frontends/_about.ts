import type { IncomingMessage } from "node:http";
import type { Scope } from "../../core/call.ts";
import type { Render } from "./_exchange.ts";
import type { HttpMethod } from "./http.ts";

/** A schema that tells itself as JSON Schema (the Standard JSON Schema interface): zod 4.2 and newer, valibot, arktype. */
export interface ToldSchema {
  readonly "~standard": {
    readonly jsonSchema: {
      readonly input: (options: { readonly target: string }) => Record<string, unknown>;
    };
  };
}

/** By media type; undefined: anything. */
export type Content = Readonly<Record<string, ToldSchema | undefined>>;

export interface AboutAnswer {
  readonly description: string;
  /** Default: no body. */
  readonly content?: Content;
}

/** What a route is, for `/openapi.json`. One object given to several mounts: the same operation under several paths. */
export interface About {
  /** One line. */
  readonly summary?: string;
  /** More, as Markdown. */
  readonly description?: string;
  /** An object of what the query string may say. */
  readonly query?: ToldSchema;
  /** Headers of the request that matter: what they are for. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Of the request. Default: none. */
  readonly body?: Content;
  /** By status; default: 200 with anything. Errors need not be told: every route has them. */
  readonly answers?: Readonly<Record<number, AboutAnswer>>;
  /** Not an operation: it only refuses what is none. */
  readonly hidden?: true;
  /** What a thrown error looks like to a client. Default `AimoError.toJSON()`. */
  readonly render?: Render;
  /** Of the requests for this path only those, and before every mount that takes all of them. */
  readonly when?: (req: IncomingMessage) => boolean;
}

/** A route that is mounted now. */
export interface MountedRoute {
  readonly method: HttpMethod;
  readonly path: string;
  readonly scope: Scope | "public";
  readonly about: About;
}
