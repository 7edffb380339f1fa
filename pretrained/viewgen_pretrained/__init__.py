"""The networks that view generation needs: where their weights come from and how they are trained."""
