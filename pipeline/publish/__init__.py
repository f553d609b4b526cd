"""Publishing: recipe, snapshot, manifests, plan, and the catalog that decides every location. Nothing is computed."""
