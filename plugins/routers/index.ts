export { breaker, type BreakerOptions } from "./breaker.ts";
export { first } from "./first.ts";
export { hedge, type HedgeOptions } from "./hedge.ts";
export { roundRobin } from "./round-robin.ts";
