export { first } from "./first.ts";
export { roundRobin } from "./round-robin.ts";
