"""The explorer's page: what is drawn, and what its controls do; every number comes from the session. It needs Dash (the extra ``explore``)."""
