import { beforeEach, describe, expect, it } from "vitest";
import {
  AimoError,
  createNode,
  type AimoNode,
  type Plugin,
  type Target,
  type TargetStats,
} from "../../../core/index.ts";
import { score, type ScoreOptions } from "../../../plugins/routers/score.ts";
import { routerOn } from "../../kit/router.ts";
import { call, card, chat, collect, createVirtualRuntime, request, target, testRouter } from "../../suites/index.ts";

testRouter(score);
