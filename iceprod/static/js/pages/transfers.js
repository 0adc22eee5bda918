/**
 * Keeps the transfers up to date.
 * @module pages/transfers
 */

import { keepFresh } from "../refresh.js";

keepFresh(2_000);
