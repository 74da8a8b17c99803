"""Session encoders, `History -> [B, D]`: one file each."""
