export { first } from "./first.ts";
export { latency, type LatencyOptions } from "./latency.ts";
export { leastLoaded } from "./least-loaded.ts";
export { price, type PriceOptions } from "./price.ts";
export { random } from "./random.ts";
export { roundRobin } from "./round-robin.ts";
export { rules, type Rule, type RuleMatch } from "./rules.ts";
export { score, type ScoreOptions } from "./score.ts";
export { sticky, type StickyOptions } from "./sticky.ts";
