/**
 * Keeps the pages about other sites up to date.
 * @module pages/sites
 */

import { keepFresh } from "../refresh.js";

keepFresh(5_000);
