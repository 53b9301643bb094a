"""Card fraud: which cards should an investigator look at this morning?"""
