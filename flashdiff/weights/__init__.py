"""What others have published, read as data and strictly: CompVis' latent diffusion models, the authors' severity encoders."""
