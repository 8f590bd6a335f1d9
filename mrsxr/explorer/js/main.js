// Where the page begins.
import {DetectorView} from "./detector.js";
import {Explorer} from "./explorer.js";
import {ServedExplorer} from "./served.js";

async function begin() {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const explorer = window.mrsxr = new (facts.served ? ServedExplorer : Explorer)(facts);
  try {
    await explorer.start();
    if (facts.served) explorer.detector = new DetectorView(explorer);
    document.body.dataset.ready = "yes";
  } catch (error) {
    explorer.panels?.say(`The page could not be made: ${error.message}`);
    document.body.dataset.ready = "failed";
    throw error;
  }
}
begin();
