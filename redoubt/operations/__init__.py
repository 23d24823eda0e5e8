"""Operations that each make one part of a host match the settings."""
