import { optional } from "../../core/optional.ts";

/** Not imported at the top: who uses another runner is told in one sentence what is missing. */
export const { describe, expect, it } = await optional("vitest", "aimo/testing", () => import("vitest"));
