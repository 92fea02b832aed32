export { plot, line, dot, text, tip, pointer, ruleX, ruleY, gridX, gridY } from "@observablehq/plot";
